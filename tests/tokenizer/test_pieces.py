import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.tokenizer import Tokenizer, train_byte_bpe, train_tokenizer
from tfkit.tokenizer.pieces import LETTER_BORDER, SPACE_BORDER, batches, pieces, safe_border

CORPUS = ["it's  12 o'clock\n\n  and all is   well é世 \n" * 30]
SPLIT_AT_BORDERS = [
    *(("byte_bpe", variant) for variant in ("gpt2", "llama3", "smollm2")),
    *((kind, None) for kind in ("wordpiece", "bpe_eow", "unigram")),
]
TOKENIZER = train_byte_bpe(["it's  12 o'clock\n\n  and all is   well " * 30], 320, add_bos=False)
AWKWARD = st.text(alphabet="aB1 \n\t'sd!é世\x1c\xa0<|>_[٣\u0301\0", max_size=200)


def test_long_texts_are_cut_and_those_without_a_border_are_not() -> None:
    assert [len(part) for part in pieces("abc def ghi", 4)] == [7, 4]
    assert [len(part) for part in pieces("ab+cd/12ef==", 4)] == [5, 5, 2]
    assert list(pieces("x" * 50, 4)) == ["x" * 50]
    assert list(pieces("")) == [""]


def test_a_text_of_several_pieces_encodes_as_one() -> None:
    text = "some words and 12\n" * 16_000
    ids = TOKENIZER.encode_texts([text, "", "a"])
    assert ids == [TOKENIZER.backend.encode(part).ids for part in (text, "", "a")]


def test_batches_hold_every_item_in_order() -> None:
    assert list(batches(["ab", "c", "defg", "h"], len, 3)) == [["ab", "c"], ["defg"], ["h"]]
    assert list(batches([], len, 3)) == []


KNOWN = [train_tokenizer(TokenizerSection(vocab_size=400, kind=kind, variant=variant), CORPUS) for kind, variant in SPLIT_AT_BORDERS]


@pytest.mark.parametrize("tokenizer", KNOWN, ids=map(str, SPLIT_AT_BORDERS))
@given(text=AWKWARD, length=st.integers(1, 20))
@settings(max_examples=300)
def test_the_border_of_each_kind_is_safe(tokenizer: Tokenizer, text: str, length: int) -> None:
    border = safe_border(json.loads(tokenizer.tokenizer_json), tokenizer.backend.encode_special_tokens)
    assert border is not None
    parts = list(pieces(text, length, border))
    assert "".join(parts) == text
    whole = tokenizer.backend.encode(text, add_special_tokens=False).ids
    assert [i for part in parts for i in tokenizer.backend.encode(part, add_special_tokens=False).ids] == whole


def test_other_splitting_is_not_known_to_be_safe() -> None:
    known = json.loads(TOKENIZER.tokenizer_json)
    byte_level = known["pre_tokenizer"]
    assert safe_border(known, True) is LETTER_BORDER
    assert safe_border(known, False) is SPACE_BORDER, "the text's own <|endoftext|> could be cut"
    others = [{"type": "Split", "pattern": {"Regex": "[a-z]"}, "behavior": "Isolated", "invert": False}, byte_level]
    spaces = {"content": "two  spaces", "lstrip": False, "rstrip": False, "single_word": False, "special": True}
    for change in (
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "Metaspace"}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {**byte_level, "add_prefix_space": True}},
        {"pre_tokenizer": {**byte_level, "use_regex": False}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": others}},
        {"pre_tokenizer": {"type": "BertPreTokenizer"}, "normalizer": {"type": "NFC"}},
        {"added_tokens": [spaces]},
        {"added_tokens": [{**spaces, "content": "x", "lstrip": True}]},
    ):
        assert safe_border({**known, **change}, True) is None, change
