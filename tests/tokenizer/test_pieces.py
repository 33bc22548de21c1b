import json

from hypothesis import given, settings
from hypothesis import strategies as st

from tfkit.tokenizer import train_byte_bpe
from tfkit.tokenizer.pieces import batches, has_safe_cuts, pieces

TOKENIZER = train_byte_bpe(["it's  12 o'clock\n\n  and all is   well " * 30], 320, add_bos=False)
AWKWARD = st.text(alphabet="aB1 \n\t'sd!é世\x1c\xa0<|>_[٣\u0301\0", max_size=200)


@settings(deadline=None, max_examples=500)
@given(AWKWARD, st.integers(1, 20))
def test_pieces_have_the_ids_of_the_whole(text: str, length: int) -> None:
    parts = list(pieces(text, length))
    assert "".join(parts) == text
    whole = TOKENIZER.backend.encode(text).ids
    assert [i for part in parts for i in TOKENIZER.backend.encode(part).ids] == whole


def test_long_texts_are_cut_and_those_without_a_border_are_not() -> None:
    assert [len(part) for part in pieces("abc def ghi", 4)] == [7, 4]
    assert [len(part) for part in pieces("ab+cd/12ef==", 4)] == [5, 5, 2]
    assert list(pieces("x" * 50, 4)) == ["x" * 50]
    assert list(pieces("")) == [""]


def test_a_text_of_several_pieces_encodes_as_one() -> None:
    text = "some words and 12\n" * 40_000
    ids = TOKENIZER.encode_texts([text, "", "a"])
    assert ids == [TOKENIZER.backend.encode(part).ids for part in (text, "", "a")]


def test_batches_hold_every_item_in_order() -> None:
    assert list(batches(["ab", "c", "defg", "h"], len, 3)) == [["ab", "c"], ["defg"], ["h"]]
    assert list(batches([], len, 3)) == []


def test_only_gpt2s_own_splitting_is_known_to_be_safe() -> None:
    known = json.loads(TOKENIZER.tokenizer_json)
    assert has_safe_cuts(known)
    assert not has_safe_cuts({**known, "normalizer": {"type": "NFC"}})
    assert not has_safe_cuts({**known, "pre_tokenizer": {"type": "Metaspace"}})
    assert not has_safe_cuts({**known, "pre_tokenizer": {**known["pre_tokenizer"], "add_prefix_space": True}})
    assert not has_safe_cuts({**known, "pre_tokenizer": {**known["pre_tokenizer"], "use_regex": False}})
    spaces = {"content": "two  spaces", "lstrip": False, "rstrip": False, "single_word": False}
    assert not has_safe_cuts({**known, "added_tokens": [spaces]})
