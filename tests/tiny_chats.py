"""Chats for tests: tiny random models with the public templates of well-known families; real tokenizers for each of our formats, trained on
random sentences, and random conversations that every format can express."""

from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from tiny_layouts import TINY_GPT2
from tokenizers import AddedToken, decoders, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from tfkit.hub import save_model
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import build
from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.tokenizer import Tokenizer, train_tokenizer

CONTEXT = 512
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
SPECIAL += ["<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]"]

TEMPLATES = {
    "chatml": """{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\n' }}
{%- endif %}
""",
    "llama 2": """{% set ns = namespace(system=none) %}
{% for message in messages %}
    {% if message.role == 'system' %}
        {% set ns.system = message.content %}
        {% continue %}
    {% endif %}
    {% if message.role == 'user' %}
        {% if ns.system is not none %}
{{- bos_token ~ '[INST] <<SYS>>\n' ~ ns.system ~ '\n<</SYS>>\n\n' ~ message.content | trim ~ ' [/INST]' }}
            {% set ns.system = none %}
        {% else %}
{{- bos_token ~ '[INST] ' ~ message.content | trim ~ ' [/INST]' }}
        {% endif %}
    {% elif message.role == 'assistant' %}
{{- ' ' ~ message.content | trim ~ ' ' ~ eos_token }}
    {% else %}
{{- raise_exception('Llama 2 knows system, user and assistant, not ' ~ message.role) }}
    {% endif %}
{% endfor %}""",
    "llama 3": """{{- bos_token }}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set today = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + today + '\n\n' }}
{%- if tools is not none %}{{- tools | tojson(indent=4) }}{%- endif %}
{{- '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}
    {%- generation %}{{- message.content | trim + '<|eot_id|>' }}{%- endgeneration %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
""",
    "gemma": """{{ bos_token }}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- set role = 'model' if message.role == 'assistant' else message.role %}
    {{- '<start_of_turn>' + role + '\n' + message.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}
""",
    "mistral": """{{ bos_token }}
{%- for message in messages if message.role != 'system' %}
    {%- if message.role == 'user' and loop.last and messages[0].role == 'system' %}
        {{- '[INST] ' + messages[0].content + '\n\n' + message.content + '[/INST]' }}
    {%- elif message.role == 'user' %}
        {{- '[INST] ' + message.content + '[/INST]' }}
    {%- else %}
        {{- ' ' + message.content + eos_token }}
    {%- endif %}
{%- endfor %}
""",
    "smollm2": """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{{ '<|im_start|>' ~ message['role'] ~ '
' ~ message['content'] ~ '<|im_end|>' ~ '
' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}""",
}


def chat_tokenizer() -> tuple[str, dict[str, Any]]:
    """Return tokenizer.json and tokenizer_config.json of a byte-level tokenizer that itself puts <s> before and </s> after a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(BPE(vocab={token: i for i, token in enumerate(SPECIAL + alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return backend.to_str(), {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}


def write_chat_checkpoint(folder: Path, template: str | None, **changes: Any) -> Path:
    """Write a model folder with random weights; None: without a chat template. `changes` are of the model's config."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_json(*chat_tokenizer(), template)
    config = TINY_GPT2 | {"vocab_size": tokenizer.size, "context_length": CONTEXT}
    model = build(ModelConfig.model_validate(config | changes), seed=3)
    save_model(folder, model.config, model.state_dict(), tokenizer)
    return folder


KINDS: dict[str, dict[str, Any]] = {
    "chatml": {"kind": "byte_bpe", "variant": "smollm2"},
    "llama2": {"kind": "bpe_byte_fallback", "variant": "llama"},
    "llama3": {"kind": "byte_bpe", "variant": "llama3"},
    "gemma": {"kind": "bpe_byte_fallback", "variant": "gemma", "special_tokens": ["<start_of_turn>", "<end_of_turn>"]},
    "mistral": {"kind": "bpe_byte_fallback", "variant": "llama"},
    "chatml_tools": {"kind": "byte_bpe", "variant": "smollm2"},
}
FORMATS = tuple(KINDS)
NOUNS = ["cat", "dog", "hat", "mat", "tree", "Straße"]


@cache
def chat_codec(name: str) -> Tokenizer:
    """Return a tokenizer with the special tokens that the format writes."""
    section = TokenizerSection.model_validate({"vocab_size": 340, **KINDS[name]})
    return train_tokenizer(section, [f"the {one} sat on a {other} and ran" for one in NOUNS for other in NOUNS])


# Contents with white space at their ends, several bytes a character, and pieces of the formats' markers.
WORDS = [
    *("the cat", " sat", "\n", "  ", "é🙂", "12 ", "<|", "|>", "INST", "user\n", "\u2028", "'\"\\", "{{ x }}", "%}", "</", "assistant"),
    "\t",
]
contents = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map("".join).filter(str.strip)


@st.composite
def conversations(draw: st.DrawFn, system: bool = True) -> list[dict[str, str]]:
    """Draw one to three exchanges, and a system message before them if the format has it."""
    messages = [{"role": "system", "content": draw(contents)}] if system and draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages += [{"role": "user", "content": draw(contents)}, {"role": "assistant", "content": draw(contents)}]
    return messages
