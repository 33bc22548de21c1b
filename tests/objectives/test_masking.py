"""Which tokens are masked: exact counts, measured rates, and that a mask is a function of (seed, epoch, row)."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_examples import tokenizer

from tfkit.errors import ModelError
from tfkit.objectives.masked_lm import Masking
from tfkit.recipe.schema.objective_sections import MaskedLMSection
from tfkit.tokenizer import Tokenizer

TOKENIZER = tokenizer()
CLS, SEP, PAD, MASK = (getattr(TOKENIZER, f"{name}_id") for name in ("cls", "sep", "pad", "mask"))
CHI_SQUARE = {4: 18.5, 9: 27.9, 99: 148.3}  # by degrees of freedom, p = 0.001


def masking(codec: Tokenizer = TOKENIZER, seed: int = 1, **section: Any) -> Masking:
    return Masking(MaskedLMSection.model_validate({"kind": "masked_lm", **section}), codec, seed)


def row(length: int, seed: int = 1) -> NDArray[np.int64]:
    """Return [CLS] ids [SEP], `length` ids in all."""
    ids = np.random.default_rng(seed).integers(5, TOKENIZER.size, length)
    ids[[0, -1]] = CLS, SEP
    return ids


def chi_square(found: NDArray[Any], expected: NDArray[Any] | float) -> float:
    return float(((found - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("rate", [0.15, 0.4, 0.01])
def test_as_many_as_the_script_would_mask_and_never_a_special_token(rate: float) -> None:
    draw = masking(rate=rate).draw
    for length in range(3, 130):
        ids = row(length, seed=length)
        ids[length // 2] = SEP if length % 2 else MASK  # in the middle of a pair, or literally in a text
        places, shown = draw(ids, 0, length)
        candidates = np.isin(ids, [CLS, SEP, PAD, MASK], invert=True).sum()
        assert len(places) == len(shown) == min(max(1, round(rate * length)), candidates)
        assert np.isin(ids[places], [CLS, SEP, PAD, MASK]).sum() == 0
        assert (np.diff(places) > 0).all()


def test_a_row_of_special_tokens_alone_has_no_mask() -> None:
    assert all(len(part) == 0 for part in masking().draw(np.array([CLS, SEP]), 0, 0))
    assert all(len(part) == 0 for part in masking(whole_words=True).draw(np.array([CLS, SEP]), 0, 0))


def drawn(rule: Masking, ids: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions and replacements of many rows with these ids."""
    found = [rule.draw(ids, 0, number) for number in range(count)]
    return np.concatenate([places for places, _ in found]), np.concatenate([shown for _, shown in found])


def test_the_rates_are_eight_one_one_and_every_place_and_entry_is_as_likely() -> None:
    ids = row(102)
    places, shown = drawn(masking(rate=0.2), ids, 3000)  # 20 of 100
    total = len(places)
    assert total == 3000 * 20
    masked, kept = shown == MASK, shown == ids[places]
    for share, of in ((0.8, masked), (0.1, kept), (0.1, ~masked & ~kept)):
        assert of.mean() == pytest.approx(share, abs=4 * (share * (1 - share) / total) ** 0.5 + 1 / TOKENIZER.size)
    assert chi_square(np.bincount(places, minlength=102)[1:-1], 3000 * 0.2) < CHI_SQUARE[99]
    _, random = drawn(masking(split=[0, 1, 0]), ids, 4000)
    assert {*np.unique(random)} == {*range(TOKENIZER.size)}, "any entry, special tokens too"
    tenths = np.bincount(random * 10 // TOKENIZER.size, minlength=10)
    sizes = np.bincount(np.arange(TOKENIZER.size) * 10 // TOKENIZER.size) / TOKENIZER.size
    assert chi_square(tenths, len(random) * sizes) < CHI_SQUARE[9]


def test_the_split_is_the_recipes() -> None:
    ids = row(50)
    for split, wanted in (([1, 0, 0], {MASK}), ([0, 0, 1], {*ids[1:-1]})):
        assert {*drawn(masking(split=split), ids, 50)[1]} <= wanted


def test_a_mask_is_a_function_of_seed_epoch_and_row() -> None:
    ids = row(60)

    def found(rule: Masking, epoch: int, number: int) -> list[list[int]]:
        return [part.tolist() for part in rule.draw(ids, epoch, number)]

    first = found(masking(), 3, 7)
    assert found(masking(), 3, 7) == first
    assert len({str(one) for one in (first, found(masking(), 4, 7), found(masking(), 3, 8), found(masking(seed=2), 3, 7))}) == 4
    still = masking(masking="static")
    assert found(still, 3, 7) == found(still, 4, 7) != found(still, 4, 8)


def test_rare_tokens_are_chosen_in_proportion_to_a_power_of_their_count() -> None:
    """If one of five tokens is drawn, its probability is proportional to count^-0.7, as in DistilBERT's script; several are drawn without
    replacement.
    """
    ids = np.array([CLS, 10, 11, 12, 13, 14, SEP])
    counts = np.zeros(TOKENIZER.size, np.int64)
    counts[10:15] = [1, 3, 10, 100, 1000]
    rule = masking(rarity=0.7, rate=0.1)
    found = [rule.draw(ids, 0, number, counts)[0] for number in range(4000)]
    weights = counts[10:15] ** -0.7
    chosen = np.bincount(np.concatenate(found), minlength=7)[1:6]
    assert chi_square(chosen, 4000 * weights / weights.sum()) < CHI_SQUARE[4]
    pairs = masking(rarity=0.7, rate=0.3)
    both = [tuple(pairs.draw(ids, 0, number, counts)[0]) for number in range(4000)]
    share = weights / weights.sum()
    first_two = share[0] * share[1] / (1 - share[0]) + share[1] * share[0] / (1 - share[1])
    assert both.count((1, 2)) / 4000 == pytest.approx(first_two, abs=0.03)


WHOLE = tokenizer()
LONG = WHOLE.encode_texts(["catdog sat redhatcat on mat bigsmall the and fastslow"])[0]


def words(ids: list[int]) -> list[list[int]]:
    """Return the positions of each word."""
    found: list[list[int]] = []
    for place, token in enumerate(ids):
        if token in (CLS, SEP):
            continue
        if str(WHOLE.backend.id_to_token(token)).startswith("##") and found:
            found[-1].append(place)
        else:
            found.append([place])
    return found


def test_whole_words_are_masked_whole_and_never_too_many() -> None:
    grouped = words(LONG)
    assert max(map(len, grouped)) > 2, "some words have several pieces"
    rule = masking(whole_words=True, rate=0.4)
    most = round(0.4 * len(LONG))
    seen: set[int] = set()
    for number in range(300):
        places = {*rule.draw(np.array(LONG), 0, number)[0].tolist()}
        assert all(places.isdisjoint(word) or places >= {*word} for word in grouped)
        assert len(places) <= most
        assert all(len(places) + len(word) > most for word in grouped if places.isdisjoint(word)), "another word would have fitted"
        seen |= places
    assert seen == {place for word in grouped for place in word}


def test_a_row_of_words_that_are_all_too_long_has_one_of_them() -> None:
    ids = WHOLE.encode_texts(["catdog redhatcat"])[0]
    grouped = words(ids)
    assert {tuple(masking(whole_words=True, rate=0.01).draw(np.array(ids), 0, i)[0].tolist()) for i in range(30)} == {*map(tuple, grouped)}


def test_a_piece_that_begins_a_row_is_a_word_of_its_own() -> None:
    """The beginning of its word is in the previous row."""
    piece = LONG[words(LONG)[0][1]]
    ids = np.array([CLS, piece, piece, WHOLE.encode_texts(["cat"])[0][1], SEP])
    assert {tuple(masking(whole_words=True, rate=0.4).draw(ids, 0, i)[0].tolist()) for i in range(30)} == {(1, 2), (3,)}


def test_tokenizers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match=r"the tokenizer has no \[MASK\]"):
        masking(tokenizer("byte_bpe"))
    settings = {"mask_token": "<|endoftext|>", "cls_token": "<|endoftext|>", "sep_token": "<|endoftext|>"}
    bytes_of = Tokenizer.from_json(tokenizer("byte_bpe").tokenizer_json, settings)
    with pytest.raises(ModelError, match="whole_words"):
        masking(bytes_of, whole_words=True)
