"""Real tokenizers for each chat format, trained on random sentences, and random conversations that every format can express."""

from functools import cache
from typing import Any

from hypothesis import strategies as st

from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.tokenizer import Tokenizer, train_tokenizer

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
    "the cat",
    " sat",
    "\n",
    "  ",
    "é🙂",
    "12 ",
    "<|",
    "|>",
    "INST",
    "user\n",
    "\u2028",
    "'\"\\",
    "{{ x }}",
    "%}",
    "</",
    "assistant",
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
