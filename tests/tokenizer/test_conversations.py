"""Conversations as ids: those of transformers and of generate --chat, with the answers where independent references have them."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_chats import FORMATS, chat_codec, conversations
from transformers import AutoTokenizer

from tfkit.errors import ModelError, UsageError
from tfkit.tokenizer import Tokenizer, load_tokenizer, save_tokenizer
from tfkit.tokenizer.chat_formats import FORMATS as OURS
from tfkit.tokenizer.chat_formats import UnfitError
from tfkit.tokenizer.conversations import ChatIds, Conversations, chat_tokenizer, resolve_format
from tfkit.tokenizer.template import encode_rendered

TURNS = [
    {"role": "user", "content": "the cat"},
    {"role": "assistant", "content": "sat on é🙂 12"},
    {"role": "user", "content": "a hat"},
    {"role": "assistant", "content": "ran"},
]
# As ours, with the tags around what is the assistant's to say by which transformers makes its mask.
TAGGED = """{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}
{%- if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}
{%- else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


@cache
def in_format(name: str) -> Conversations:
    form, codec = OURS[name], chat_codec(name)
    return Conversations(chat_tokenizer(codec, form, None), form, None, Path("tokenizer"))


def by_template(codec: Tokenizer, template: str) -> Conversations:
    return Conversations(chat_tokenizer(replace(codec, chat_template=template), None, None), None, None, Path("tokenizer"))


def encoded(made: Conversations, messages: list[dict[str, str]]) -> ChatIds:
    with made.renderer() as render:
        return made.encode([render(messages, "rows.jsonl:1")])[0]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The tokenizers as checkpoints have them, read by transformers, and by us."""
    found = {}
    for name in FORMATS:
        folder = tmp_path_factory.mktemp(name)
        save_tokenizer(in_format(name).tokenizer, folder)
        found[name] = AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
    return found


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_ids_are_those_of_transformers_and_of_generate(name: str, theirs: dict[str, Any], data: st.DataObject) -> None:
    messages = data.draw(conversations(system=OURS[name].has_system))
    found, (codec, loaded) = encoded(in_format(name), messages), theirs[name]
    assert found.ids.tolist() == codec.apply_chat_template(messages, return_dict=False)
    stripped = [one | {"content": one["content"].strip()} for one in messages]
    found = encoded(in_format(name), stripped)
    first = int(found.targets.argmax())
    asked = next(number for number, one in enumerate(stripped) if one["role"] == "assistant")
    prompt = codec.apply_chat_template(stripped[:asked], add_generation_prompt=True, tokenize=False)
    assert encode_rendered(loaded, [prompt])[0] == found.ids[:first].tolist()  # what a model is asked is what it learned to answer
    bos = loaded.bos_id
    assert [one for one in zip(found.ids, found.ids[1:], strict=False) if one == (bos, bos)] == []


@pytest.mark.parametrize("name", FORMATS)
def test_targets_are_the_answers_and_the_ends_of_their_turns(name: str) -> None:
    made = in_format(name)
    found = encoded(made, TURNS)
    ids = [int(number) for number in found.ids[found.targets]]
    ends = [place for place, number in enumerate(ids) if number == made.end_id]
    assert ends == [ids.index(made.end_id), len(ids) - 1]
    parts = [ids[: ends[0]], ids[ends[0] + 1 : -1]]
    assert [made.tokenizer.decode(part).strip() for part in parts] == ["sat on é🙂 12", "ran"]
    assert made.ends_turn(found)
    others = made.tokenizer.decode([int(number) for number in found.ids[~found.targets]])
    assert "sat" not in others
    assert "ran" not in others


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_spans_of_a_template_are_found_by_its_prefixes(name: str, data: st.DataObject) -> None:
    messages = data.draw(conversations(system=OURS[name].has_system))
    codec = in_format(name).tokenizer
    ours, found = encoded(in_format(name), messages), encoded(by_template(codec, str(codec.chat_template)), messages)
    assert found.ids.tolist() == ours.ids.tolist()
    assert found.targets.tolist() == ours.targets.tolist()


def test_the_mask_is_the_one_that_transformers_makes_of_generation_tags(tmp_path: Path) -> None:
    made = by_template(chat_codec("chatml"), TAGGED)
    save_tokenizer(made.tokenizer, tmp_path)
    codec = AutoTokenizer.from_pretrained(tmp_path)
    theirs = codec.apply_chat_template(TURNS, return_dict=True, return_assistant_tokens_mask=True)
    found = encoded(made, TURNS)
    assert found.ids.tolist() == theirs["input_ids"]
    assert found.targets.astype(int).tolist() == theirs["assistant_masks"]
    assert 0 < sum(theirs["assistant_masks"]) < len(found.ids) / 2


def test_the_space_before_an_answer_is_not_a_target_where_the_tokenizer_trims_its_offsets() -> None:
    """GPT-2's post-processor takes spaces out of a token's text: a space of the prompt would seem to begin the answer."""
    document = json.loads(chat_codec("chatml").tokenizer_json)
    document["post_processor"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    codec = Tokenizer.from_json(json.dumps(document), chat_codec("chatml").settings)
    template = "{% for m in messages %}{{ m['role'] + ':  ' + m['content'] + '<|im_end|>' }}{% endfor %}"
    template += "{% if add_generation_prompt %}{{ 'assistant:  ' }}{% endif %}"
    made = by_template(codec, template)
    found = encoded(made, [{"role": "user", "content": "the"}, {"role": "assistant", "content": "12"}])
    assert made.tokenizer.decode([int(number) for number in found.ids[found.targets]]) == "12<|im_end|>"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("'<|im_end|>'", "'.'"), "ends an answer with .*, which is not a special token"),
        (("{{ bos_token }}", "{{ bos_token + bos_token }}"), "begins with two <|endoftext|>"),
        (("{% for message in messages %}", "{{ messages|length }}{% for message in messages %}"), "rewrites|not a prefix of the whole"),
        (("{{ bos_token }}", "{{ raise_exception('not today') }}"), "not today"),
    ],
)
def test_templates_that_training_could_not_use_are_refused_before_it(change: tuple[str, str], message: str) -> None:
    assert TAGGED.replace(*change) != TAGGED
    with pytest.raises(ModelError, match=message):
        by_template(chat_codec("chatml"), TAGGED.replace(*change))


def test_a_template_that_rewrites_a_longer_conversation_is_found_out_there() -> None:
    made = by_template(chat_codec("chatml"), TAGGED.replace("messages %}", "messages[-2:] %}", 1))  # it forgets what was said before
    with pytest.raises(UnfitError, match="the text of the first 2 messages is not a prefix of the whole"):
        encoded(made, TURNS)


def test_a_conversation_that_the_assistant_begins_is_refused_with_the_reason() -> None:
    """Under a template that writes a system message of its own before the first message, as SmolLM2's does."""
    own = "{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\nHi<|im_end|>\n' }}{% endif %}"
    made = by_template(chat_codec("chatml"), TAGGED.replace("in messages %}", "in messages %}" + own, 1))
    answer = {"role": "assistant", "content": "the"}
    with pytest.raises(UnfitError, match=r"the assistant speaks first.*; begin with a message by the user or the system"):
        encoded(made, [answer, *TURNS])
    assert encoded(made, [{"role": "system", "content": "Hi"}, answer]).targets.any()


def test_the_format_follows_from_the_tokenizer() -> None:
    assert resolve_format("auto", chat_codec("chatml"), None) == OURS["chatml"]
    assert resolve_format("auto", chat_codec("llama3"), None) == OURS["llama3"]
    assert resolve_format("auto", chat_codec("gemma"), None) == OURS["gemma"]
    assert resolve_format("mistral", chat_codec("llama2"), None) == OURS["mistral"]
    assert resolve_format("auto", in_format("mistral").tokenizer, None) == OURS["mistral"]  # recognised by the template of its checkpoint
    assert resolve_format("auto", replace(chat_codec("chatml"), chat_template=TAGGED), None) is None
    with pytest.raises(UsageError, match=r"of a format; .* chatml, llama2, .*\. Where a run trains its tokenizer, chatml"):
        resolve_format("auto", chat_codec("llama2"), None)
    with pytest.raises(UsageError, match="no chat template"):
        resolve_format("template", chat_codec("chatml"), None)
    with pytest.raises(UsageError, match=r"objective\.system"):
        resolve_format("auto", replace(chat_codec("chatml"), chat_template=TAGGED), "Rhyme.")


def test_a_tokenizer_without_the_tokens_of_a_format_is_refused() -> None:
    lacks = r'<start_of_turn> and <end_of_turn> .* tokenizer.special_tokens: \["<start_of_turn>", .*format: chatml, llama2, llama3, mistral'
    with pytest.raises(UsageError, match=lacks):
        Conversations(chat_codec("chatml"), OURS["gemma"], None, Path("tokenizer"))
    with pytest.raises(
        UsageError, match=r"objective\.system: the format gemma has no system message; .*: chatml, llama2, llama3, chatml_tools$"
    ):
        Conversations(chat_codec("gemma"), OURS["gemma"], "Rhyme.", Path("tokenizer"))
    settings = {name: value for name, value in chat_codec("llama2").settings.items() if name != "bos_token"}
    with pytest.raises(UsageError, match=r"llama2 writes bos, which the tokenizer lacks; name another objective.format: chatml, llama3,"):
        Conversations(Tokenizer.from_json(chat_codec("llama2").tokenizer_json, settings), OURS["llama2"], None, Path("tokenizer"))
