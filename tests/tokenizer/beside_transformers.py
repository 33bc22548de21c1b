"""A tokenizer beside the same one as transformers reads it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from tfkit.tokenizer import Tokenizer, load_tokenizer, save_tokenizer
from tfkit.tokenizer.joined_texts import encode_pairs


def assert_same(ours: Tokenizer, theirs: Any, text: str) -> None:
    """The ids of the text, and what they decode to."""
    ids = ours.encode_texts([text])[0]
    assert ids == theirs(text)["input_ids"]
    for skip in (False, True):
        assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)


def assert_same_roles(ours: Tokenizer, theirs: Any) -> None:
    for role in ("bos", "eos", "pad", "unk", "cls", "sep", "mask"):
        assert getattr(ours, f"{role}_id") == getattr(theirs, f"{role}_token_id"), role


def agreed(folder: Path, again: Path, texts: list[str], pairs: Iterable[tuple[str, str]] = ()) -> tuple[Tokenizer, list[Any]]:
    """Save the folder's tokenizer in `again`: from both, transformers gives texts and pairs its ids. Return it, and transformers' two."""
    ours, pairs = load_tokenizer(folder), list(pairs)
    again.mkdir()
    save_tokenizer(ours, again)
    assert load_tokenizer(again).fingerprint() == ours.fingerprint()
    both = [AutoTokenizer.from_pretrained(place) for place in (folder, again)]
    for theirs in both:
        assert ours.encode_texts(texts) == theirs(texts)["input_ids"]
        for text in texts[:40]:
            assert_same(ours, theirs, text)
        if pairs:
            expected = theirs(*map(list, zip(*pairs, strict=True)), return_token_type_ids=True)
            joined = encode_pairs(ours, pairs)
            assert [pair[0] for pair in joined] == expected["input_ids"]
            if "token_type_ids" in theirs.model_input_names:
                assert [pair[1] for pair in joined] == expected["token_type_ids"]
    return ours, both
