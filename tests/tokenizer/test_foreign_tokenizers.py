"""Tokenizers as transformers saves them for each family: read here with the same ids, and saved again with the same ids."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from test_kinds import PROBES, TRAINED, any_text

from tfkit.tokenizer import load_tokenizer, save_tokenizer
from tfkit.tokenizer.joined_texts import encode_pairs

transformers = pytest.importorskip("transformers")

Entries = dict[str, Any]


def entries(name: str) -> Entries:
    """The vocabulary, and the merges if it has any, of a tokenizer that was trained here."""
    model = json.loads(TRAINED[name].tokenizer_json)["model"]
    merges = {"merges": [tuple(merge) for merge in model["merges"]]} if "merges" in model else {}
    return {"vocab": [tuple(piece) for piece in model["vocab"]] if isinstance(model["vocab"], list) else model["vocab"], **merges}


# The tokenizer's class with its options, and whose vocabulary it gets.
FOREIGN: dict[str, tuple[str, Callable[[Entries], Any]]] = {
    "bert": ("bert", lambda words: transformers.BertTokenizer(**words)),
    "bert cased": ("bert cased", lambda words: transformers.BertTokenizer(**words, do_lower_case=False)),
    "bert without Chinese": ("bert", lambda words: transformers.BertTokenizer(**words, tokenize_chinese_chars=False)),
    "distilbert": ("bert", lambda words: transformers.DistilBertTokenizer(**words)),
    "gpt": ("gpt", lambda words: transformers.OpenAIGPTTokenizer(**words)),
    "gpt2": ("gpt2", lambda words: transformers.GPT2Tokenizer(**words)),
    "gpt2 with a pad": ("gpt2", lambda words: transformers.GPT2Tokenizer(**words, pad_token="<|pad|>")),
    "gpt2 with a space first": ("gpt2", lambda words: transformers.GPT2Tokenizer(**words, add_prefix_space=True)),
    "t5": ("t5", lambda words: transformers.T5Tokenizer(**words)),
    "llama": ("llama", lambda words: transformers.LlamaTokenizer(**words)),
    "llama with both": ("llama", lambda words: transformers.LlamaTokenizer(**words, add_bos_token=True, add_eos_token=True)),
    "llama old": ("llama", lambda words: transformers.LlamaTokenizer(**words, legacy=True)),
    "llama without a space": ("llama", lambda words: transformers.LlamaTokenizer(**words, add_prefix_space=False)),
    "gemma": ("gemma", lambda words: transformers.GemmaTokenizer(**words, add_bos_token=True)),
    "smollm2": ("smollm2", lambda words: transformers.PreTrainedTokenizerFast(tokenizer_object=TRAINED["smollm2"].backend)),
    "llama3": ("llama3", lambda words: transformers.PreTrainedTokenizerFast(tokenizer_object=TRAINED["llama3"].backend)),
}


@pytest.mark.sampled(16)
@pytest.mark.parametrize("name", FOREIGN)
def test_what_transformers_saves_has_the_same_ids_here(name: str, tmp_path: Path) -> None:
    source, make = FOREIGN[name]
    made, ours_again = tmp_path / "made", tmp_path / "again"
    make(entries(source)).save_pretrained(made)
    ours, theirs = load_tokenizer(made), transformers.AutoTokenizer.from_pretrained(made)
    ours_again.mkdir()
    save_tokenizer(ours, ours_again)
    again = transformers.AutoTokenizer.from_pretrained(ours_again)

    def compare(text: str) -> None:
        ids = ours.encode_texts([text])[0]
        assert ids == theirs(text)["input_ids"] == again(text)["input_ids"]
        assert ours.decode(ids) == theirs.decode(ids) == again.decode(ids)

    for text in PROBES:
        compare(text)

    @given(any_text)
    @settings(deadline=None, max_examples=60)
    def random(text: str) -> None:
        compare(text)

    random()
    for role in ("bos", "eos", "pad", "unk", "cls", "sep", "mask"):
        assert getattr(ours, f"{role}_id") == getattr(theirs, f"{role}_token_id") == getattr(again, f"{role}_token_id"), role
    pair = encode_pairs(ours, [("the fox", "it's")])[0][:2]
    assert pair[0] == theirs("the fox", "it's")["input_ids"] == again("the fox", "it's")["input_ids"]
    assert load_tokenizer(ours_again).fingerprint() == ours.fingerprint()
