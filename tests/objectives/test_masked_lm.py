"""Masked language modelling against transformers' own losses; which tokens are masked: exact counts, and measured rates."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_examples import ENCODER, WORDS, model, opened, stepper_of, texts, tokenizer
from tiny_files import write_rows
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining

from tfkit.data import FramedRows, Loader, Rows, SentencePairRows, TokenStream, token_stream
from tfkit.data.sources.open_sources import open_source
from tfkit.errors import ModelError
from tfkit.objectives.context import RowOrder
from tfkit.objectives.masked_lm import MaskedLM, Masking
from tfkit.objectives.objective import IGNORED, Batch
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.objective_sections import MaskedLMSection
from tfkit.tokenizer import Tokenizer

TOKENIZER = tokenizer()
CLS, SEP, PAD, MASK = (getattr(TOKENIZER, f"{name}_id") for name in ("cls", "sep", "pad", "mask"))
CHI_SQUARE = {4: 18.5, 9: 27.9, 99: 148.3}  # by degrees of freedom, p = 0.001
PAIRS = ENCODER | {"head": {"kind": "masked_lm", "tied": True, "next_sentence": True}}
KINDS: dict[str, dict[str, Any]] = {
    "masks": {},
    "rare tokens": {"rarity": 0.7, "rate": 0.3},
    "next sentence": {"next_sentence": True, "short_rows": 0.5, "whole_words": True},
}


def objective(**section: Any) -> MaskedLM:
    return MaskedLM(MaskedLMSection.model_validate({"kind": "masked_lm", **section}), TOKENIZER, seed=1)


def stream_of(folder: Path, documents: list[str]) -> TokenStream:
    path = write_rows(folder / "rows.jsonl", [{"text": text} for text in documents])
    return token_stream(open_source(SourceSection(path=str(path)), "all", None), TOKENIZER, sentences=True)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> TokenStream:
    """Return twelve documents of a few sentences."""
    return stream_of(tmp_path_factory.mktemp("text"), ["\n".join(texts(2 + i % 5, seed=i)) for i in range(12)])


def rows_of(stream: TokenStream, objective: MaskedLM) -> Rows:
    if objective.section.next_sentence:
        return SentencePairRows([(stream, 1.0)], 24, 1, objective.frame, short=objective.section.short_rows)
    return FramedRows([(stream, 1.0)], 24, 1, objective.frame, count_tokens=objective.section.rarity > 0)


def whole_step(stream: TokenStream, objective: MaskedLM) -> Batch:
    [batch] = Loader(rows_of(stream, objective), objective.collate, 8, 8).step(0)
    return batch


def test_next_sentences_and_masks_cost_what_transformers_says(tmp_path: Path, stream: TokenStream) -> None:
    ours, taught = model(PAIRS).eval(), objective(next_sentence=True, short_rows=0.5)
    batch = whole_step(stream, taught)
    assert batch.segment_ids is not None
    assert batch.document_ids is None
    theirs = opened(tmp_path / "model", AutoModelForPreTraining, ours, TOKENIZER)
    assert type(theirs).__name__ == "BertForPreTraining"
    with torch.no_grad():
        given = {"input_ids": batch.input_ids, "attention_mask": batch.padding_mask.long(), "token_type_ids": batch.segment_ids}
        output = theirs(**given, labels=batch.labels, next_sentence_label=batch.extras["next_sentence"])
        sums, counts, measured = taught.loss(ours, batch), taught.counts(batch), taught.measure(ours, batch)
    assert counts == {"mlm": int((batch.labels != IGNORED).sum()), "next_sentence": 8}
    means = {term: float(value) / counts[term] for term, value in sums.items()}
    assert means["mlm"] + means["next_sentence"] == pytest.approx(float(output.loss), abs=1e-5)
    hidden = batch.labels != IGNORED
    right = int((output.prediction_logits.argmax(-1) == batch.labels)[hidden].sum())
    follows = int((output.seq_relationship_logits.argmax(-1) == batch.extras["next_sentence"]).sum())
    expected = {"loss": float(output.loss), "mlm_loss": means["mlm"], "next_sentence_loss": means["next_sentence"]}
    expected = {name: pytest.approx(value, abs=1e-5) for name, value in expected.items()}
    expected |= {"accuracy": right / int(hidden.sum()), "next_sentence_accuracy": follows / 8}
    assert taught.metrics(measured) == expected | {"perplexity": pytest.approx(np.exp(means["mlm"]), rel=1e-4)}


def test_masks_alone_cost_what_transformers_says_of_each_text(tmp_path: Path, stream: TokenStream) -> None:
    """The documents of a row do not attend to each other, so the loss is the sum of transformers' losses of the single documents."""
    ours, taught = model(ENCODER).eval(), objective(rate=0.3)
    batch = whole_step(stream, taught)
    theirs = opened(tmp_path / "model", AutoModelForMaskedLM, ours, TOKENIZER)
    assert type(theirs).__name__ == "BertForMaskedLM"
    total, real_tokens = 0.0, torch.ones_like(batch.input_ids).bool() if batch.padding_mask is None else batch.padding_mask
    with torch.no_grad():
        for ids, labels, documents, real in zip(batch.input_ids, batch.labels, batch.document_ids, real_tokens, strict=True):
            for number in range(int(documents.max()) + 1):
                here = (documents == number) & real
                count = int((labels[here] != IGNORED).sum())
                assert [int(ids[here][0]), int(ids[here][-1])] == [CLS, SEP]
                total += float(theirs(input_ids=ids[here][None], labels=labels[here][None]).loss) * count if count else 0.0
        found = float(taught.loss(ours, batch)["mlm"])
        measured = taught.metrics(taught.measure(ours, batch))
    assert found == pytest.approx(total, rel=1e-5)
    assert measured["loss"] == pytest.approx(total / taught.counts(batch)["mlm"], rel=1e-5)
    assert measured.keys() == {"loss", "perplexity", "accuracy"}


def test_labels_are_what_was_there(stream: TokenStream) -> None:
    for section in KINDS.values():
        taught = objective(**section)
        framed = rows_of(stream, taught).gather(np.zeros(8, np.int64), np.arange(8))
        batch = taught.collate(framed)
        hidden = (batch.labels != IGNORED).numpy()
        assert (batch.labels.numpy()[hidden] == framed.ids[hidden]).all()
        assert (batch.input_ids.numpy()[~hidden] == framed.ids[~hidden]).all()
        assert (batch.input_ids.numpy() != framed.ids).sum() > 0
        assert batch.tokens == framed.lengths.sum()
        assert (hidden.sum(axis=1) >= 1).all()
        assert not (hidden & (np.arange(hidden.shape[1]) >= framed.lengths[:, None])).any()


def test_another_epoch_has_other_masks_unless_they_are_static(stream: TokenStream) -> None:
    for kind, differs in (("dynamic", True), ("static", False)):
        taught = objective(masking=kind)
        rows = rows_of(stream, taught)
        one, other = (taught.collate(rows.gather(np.full(8, epoch), np.arange(8))) for epoch in (0, 1))
        assert bool((one.labels != other.labels).any()) == differs


@pytest.mark.thorough
def test_a_tiny_bert_learns_what_a_document_is_about(tmp_path: Path) -> None:
    """Each document uses five of 15 words: a token costs log 15 alone, log 5 in its document; unrelated second texts are recognised."""
    random = np.random.default_rng(1)
    documents = ["\n".join(" ".join(random.choice(WORDS[5 * (i % 3) :][:5], 7)) for _ in range(30)) for i in range(6)]
    taught = objective(**KINDS["next sentence"])
    stepper = stepper_of(model(PAIRS | {"init": {"std": 0.1}}), taught, lr=5e-3)
    loader = Loader(rows_of(stream_of(tmp_path, documents), taught), taught.collate, 16, 16)
    losses = [stepper.take(step + 1, loader.step(step), 1.0).losses for step in range(120)]
    assert math.log(5) < np.mean([loss["mlm"] for loss in losses[-20:]]) < math.log(15) - 0.7
    assert np.mean([loss["next_sentence"] for loss in losses[-20:]]) < math.log(2) - 0.2


# ------------------------------------------------------------------------------------------------ which tokens are masked


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


@pytest.mark.parametrize("whole_words", [False, True])
def test_a_row_of_special_tokens_alone_has_no_mask(whole_words: bool) -> None:
    assert [len(part) for part in masking(whole_words=whole_words).draw(np.array([CLS, SEP]), 0, 0)] == [0, 0]


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


@pytest.mark.parametrize("static", [True, False])
def test_pairs_are_the_same_in_each_epoch_as_are_their_masks_only_if_masking_is_static(stream: TokenStream, static: bool) -> None:
    taught = objective(next_sentence=True, masking="static" if static else "dynamic")
    rows = taught.open_rows([(stream, 1.0)], RowOrder(24, 1, 8, False))
    first, later = (rows.gather(np.full(8, epoch), np.arange(8)).ids.tolist() for epoch in (0, 1))
    assert (first == later) is static


def test_rare_tokens_are_chosen_in_proportion_to_a_power_of_their_count() -> None:
    """One of five tokens is drawn in proportion to count^-0.7, as in DistilBERT's script, and several without replacement."""
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


LONG = TOKENIZER.encode_texts(["catdog sat redhatcat on mat bigsmall the and fastslow"])[0]


def words(ids: list[int]) -> list[list[int]]:
    """Return the positions of each word."""
    found: list[list[int]] = []
    for place, token in enumerate(ids):
        if str(TOKENIZER.backend.id_to_token(token)).startswith("##") and found:
            found[-1].append(place)
        elif token not in (CLS, SEP):
            found.append([place])
    return found


def masked_words(ids: list[int], rate: float, draws: int = 30) -> set[tuple[int, ...]]:
    """Return the different draws of places in a row."""
    rule = masking(whole_words=True, rate=rate)
    return {tuple(rule.draw(np.array(ids), 0, number)[0].tolist()) for number in range(draws)}


def test_whole_words_are_masked_whole_and_never_too_many() -> None:
    grouped, most = words(LONG), round(0.4 * len(LONG))
    assert max(map(len, grouped)) > 2, "some words have several pieces"
    found = masked_words(LONG, rate=0.4, draws=300)
    for places in found:
        assert all({*places}.isdisjoint(word) or {*places} >= {*word} for word in grouped)
        assert len(places) <= most
        assert all(len(places) + len(word) > most for word in grouped if {*places}.isdisjoint(word)), "another word would have fitted"
    assert {place for places in found for place in places} == {place for word in grouped for place in word}


def test_a_row_of_words_that_are_all_too_long_has_one_of_them() -> None:
    ids = TOKENIZER.encode_texts(["catdog redhatcat"])[0]
    assert masked_words(ids, rate=0.01) == {*map(tuple, words(ids))}


def test_a_piece_that_begins_a_row_is_a_word_of_its_own() -> None:
    """The beginning of its word is in the previous row."""
    piece = LONG[words(LONG)[0][1]]
    assert masked_words([CLS, piece, piece, TOKENIZER.encode_texts(["cat"])[0][1], SEP], rate=0.4) == {(1, 2), (3,)}


def test_tokenizers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match=r"does not put \[CLS\] before each text"):
        MaskedLM(MaskedLMSection(kind="masked_lm"), tokenizer("byte_bpe"), 1)
    with pytest.raises(ModelError, match=r"the tokenizer has no \[MASK\]"):
        masking(tokenizer("byte_bpe"))
    settings = {"mask_token": "<|endoftext|>", "cls_token": "<|endoftext|>", "sep_token": "<|endoftext|>"}
    bytes_of = Tokenizer.from_json(tokenizer("byte_bpe").tokenizer_json, settings)
    with pytest.raises(ModelError, match="whole_words"):
        masking(bytes_of, whole_words=True)
