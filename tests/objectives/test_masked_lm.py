"""Masked language modelling against transformers' own losses, and the properties that every objective has, on rows of unequal lengths."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_examples import ENCODER, WORDS, assert_any_micro_batches, model, opened, stepper_of, texts, tokenizer
from tiny_files import write_rows
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining

from tfkit.data import FramedRows, Loader, Rows, SentencePairRows, TokenStream, token_stream
from tfkit.data.sources.open_sources import open_source
from tfkit.errors import ModelError
from tfkit.objectives.masked_lm import MaskedLM
from tfkit.objectives.objective import IGNORED, Batch
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.objective_sections import MaskedLMSection

TOKENIZER = tokenizer()
PAIRS = ENCODER | {"head": {"kind": "masked_lm", "tied": True, "next_sentence": True}}
KINDS: dict[str, tuple[Mapping[str, Any], dict[str, Any]]] = {  # the model, and what the recipe says
    "masks": (ENCODER, {}),
    "rare tokens": (ENCODER, {"rarity": 0.7, "rate": 0.3}),
    "next sentence": (PAIRS, {"next_sentence": True, "short_rows": 0.5, "whole_words": True}),
}


def objective(**section: Any) -> MaskedLM:
    return MaskedLM(MaskedLMSection.model_validate({"kind": "masked_lm", **section}), TOKENIZER, seed=1)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> TokenStream:
    """Return twelve documents of a few sentences."""
    folder = tmp_path_factory.mktemp("text")
    rows = [{"text": "\n".join(texts(2 + i % 5, seed=i))} for i in range(12)]
    write_rows(folder / "rows.jsonl", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFKIT_CACHE", str(folder / "cache"))
        return token_stream(open_source(SourceSection(path=str(folder / "rows.jsonl")), "all", None), TOKENIZER, sentences=True)


def rows_of(stream: TokenStream, objective: MaskedLM) -> Rows:
    if objective.section.next_sentence:
        return SentencePairRows([(stream, 1.0)], 24, 1, objective.frame, short=objective.section.short_rows)
    return FramedRows([(stream, 1.0)], 24, 1, objective.frame, count_tokens=objective.section.rarity > 0)


def batches(stream: TokenStream, objective: MaskedLM, micro_batch_size: int, step: int = 0) -> list[Batch]:
    return Loader(rows_of(stream, objective), objective.collate, 8, micro_batch_size).step(step)


def test_next_sentences_and_masks_cost_what_transformers_says(tmp_path: Path, stream: TokenStream) -> None:
    ours, taught = model(PAIRS).eval(), objective(next_sentence=True, short_rows=0.5)
    (batch,) = batches(stream, taught, 8)
    assert batch.segment_ids is not None
    assert batch.document_ids is None
    theirs = opened(tmp_path / "model", AutoModelForPreTraining, ours, TOKENIZER)
    assert type(theirs).__name__ == "BertForPreTraining"
    with torch.no_grad():
        output = theirs(
            input_ids=batch.input_ids,
            attention_mask=batch.padding_mask.long(),
            token_type_ids=batch.segment_ids,
            labels=batch.labels,
            next_sentence_label=batch.extras["next_sentence"],
        )
        sums, counts, measured = taught.loss(ours, batch), taught.counts(batch), taught.measure(ours, batch)
    assert counts == {"mlm": int((batch.labels != IGNORED).sum()), "next_sentence": 8}
    means = {term: float(value) / counts[term] for term, value in sums.items()}
    assert means["mlm"] + means["next_sentence"] == pytest.approx(float(output.loss), abs=1e-5)
    hidden = batch.labels != IGNORED
    right = int((output.prediction_logits.argmax(-1) == batch.labels)[hidden].sum())
    follows = int((output.seq_relationship_logits.argmax(-1) == batch.extras["next_sentence"]).sum())
    metrics = taught.metrics(measured)
    assert metrics == {
        "loss": pytest.approx(float(output.loss), abs=1e-5),
        "perplexity": pytest.approx(np.exp(means["mlm"]), rel=1e-4),
        "accuracy": right / int(hidden.sum()),
        "mlm_loss": pytest.approx(means["mlm"], abs=1e-5),
        "next_sentence_loss": pytest.approx(means["next_sentence"], abs=1e-5),
        "next_sentence_accuracy": follows / 8,
    }


def test_masks_alone_cost_what_transformers_says_of_each_text(tmp_path: Path, stream: TokenStream) -> None:
    """The documents of a row do not attend to each other, so the loss is the sum of transformers' losses of the single documents."""
    ours, taught = model(ENCODER).eval(), objective(rate=0.3)
    (batch,) = batches(stream, taught, 8)
    theirs = opened(tmp_path / "model", AutoModelForMaskedLM, ours, TOKENIZER)
    assert type(theirs).__name__ == "BertForMaskedLM"
    total = 0.0
    with torch.no_grad():
        for ids, labels, documents, real in zip(batch.input_ids, batch.labels, batch.document_ids, batch_mask(batch), strict=True):
            for number in range(int(documents.max()) + 1):
                here = (documents == number) & real
                count = int((labels[here] != IGNORED).sum())
                assert [int(ids[here][0]), int(ids[here][-1])] == [TOKENIZER.cls_id, TOKENIZER.sep_id]
                total += float(theirs(input_ids=ids[here][None], labels=labels[here][None]).loss) * count if count else 0.0
        found = float(taught.loss(ours, batch)["mlm"])
        measured = taught.metrics(taught.measure(ours, batch))
    assert found == pytest.approx(total, rel=1e-5)
    assert measured["loss"] == pytest.approx(total / taught.counts(batch)["mlm"], rel=1e-5)
    assert measured.keys() == {"loss", "perplexity", "accuracy"}


def batch_mask(batch: Batch) -> torch.Tensor:
    return torch.ones_like(batch.input_ids, dtype=torch.bool) if batch.padding_mask is None else batch.padding_mask


def test_a_document_has_no_gradient_of_its_neighbour(stream: TokenStream) -> None:
    ours, taught = model(ENCODER).eval(), objective()
    (batch,) = batches(stream, taught, 8)
    row = int(batch.document_ids.max(dim=1).values.argmax())
    documents = batch.document_ids[row : row + 1]
    seen: list[torch.Tensor] = []
    handle = ours.embedding.register_forward_hook(lambda module, arguments, output: (seen.append(output), output.retain_grad())[1])
    hidden = ours(batch.input_ids[row : row + 1], document_ids=documents).hidden
    handle.remove()
    hidden[0, documents[0] == 0].square().sum().backward()
    assert bool((seen[0].grad[0, documents[0] == 0] != 0).any(dim=1).all())
    assert bool((seen[0].grad[0, documents[0] != 0] == 0).all())


def test_labels_are_what_was_there(stream: TokenStream) -> None:
    for _, section in KINDS.values():
        taught = objective(**section)
        rows = rows_of(stream, taught)
        framed = rows.gather(np.zeros(8, np.int64), np.arange(8))
        batch = taught.collate(framed)
        hidden = (batch.labels != IGNORED).numpy()
        assert (batch.labels.numpy()[hidden] == framed.ids[hidden]).all()
        assert (batch.input_ids.numpy()[~hidden] == framed.ids[~hidden]).all()
        assert (batch.input_ids.numpy() != framed.ids).sum() > 0
        assert batch.tokens == framed.lengths.sum()
        assert (hidden.sum(axis=1) >= 1).all()
        assert not (hidden & (np.arange(hidden.shape[1]) >= framed.lengths[:, None])).any()


def test_another_epoch_has_other_masks_unless_they_are_static(stream: TokenStream) -> None:
    for masking, differs in (("dynamic", True), ("static", False)):
        taught = objective(masking=masking)
        rows = rows_of(stream, taught)
        one, other = (taught.collate(rows.gather(np.full(8, epoch), np.arange(8))) for epoch in (0, 1))
        assert bool((one.labels != other.labels).any()) == differs


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_weights_do_not_depend_on_the_micro_batch(stream: TokenStream, kind: str) -> None:
    config, section = KINDS[kind]
    taught = objective(**section)
    assert len({batch.input_ids.shape[1] for batch in batches(stream, taught, 1)}) > 1, "rows of unequal lengths"
    assert_any_micro_batches(config, taught, lambda size, step: batches(stream, taught, size, step))


@pytest.mark.thorough
def test_a_tiny_bert_learns_what_a_document_is_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each document uses five of 15 words: a token alone costs log 15, in its document only log 5, and an unrelated second text can be
    recognised.
    """
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(1)
    documents = ["\n".join(" ".join(random.choice(WORDS[5 * (i % 3) :][:5], 7)) for _ in range(30)) for i in range(6)]
    write_rows(tmp_path / "rows.jsonl", [{"text": text} for text in documents])
    stream = token_stream(open_source(SourceSection(path=str(tmp_path / "rows.jsonl")), "all", None), TOKENIZER, sentences=True)
    taught = objective(**KINDS["next sentence"][1])
    stepper = stepper_of(model(PAIRS | {"init": {"std": 0.1}}), taught, lr=5e-3)
    loader = Loader(rows_of(stream, taught), taught.collate, 32, 32)
    losses = [stepper.take(step + 1, loader.step(step), 1.0).losses for step in range(120)]
    assert math.log(5) < np.mean([loss["mlm"] for loss in losses[-20:]]) < math.log(15) - 0.7
    assert np.mean([loss["next_sentence"] for loss in losses[-20:]]) < math.log(2) - 0.2


def test_a_tokenizer_with_another_template_is_refused() -> None:
    with pytest.raises(ModelError, match=r"does not put \[CLS\] before each text"):
        MaskedLM(MaskedLMSection(kind="masked_lm"), tokenizer("byte_bpe"), 1)
