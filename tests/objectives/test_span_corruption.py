"""Span corruption: the inputs and targets, token by token, and transformers' own loss for the same batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_encoder_decoders import ENCODER_DECODERS
from tiny_examples import assert_judged, made_stream, model, tokenizer
from tiny_examples import opened as opened_by
from transformers import MarianMTModel, T5ForConditionalGeneration

from tfkit.data import Loader, SpanBatch, SpanRows
from tfkit.data.order.spans import SpanLengths
from tfkit.errors import ModelError
from tfkit.model.config import ModelConfig
from tfkit.objectives.context import ModelContext
from tfkit.objectives.objective import Batch
from tfkit.objectives.span_corruption import SpanCorruption, open_span_corruption
from tfkit.recipe.schema.objective_sections import SpanCorruptionSection
from tfkit.tokenizer import Tokenizer

TOKENIZER = tokenizer("unigram")
THEIRS = {"t5": T5ForConditionalGeneration, "2017": MarianMTModel}


def opened(kind: str = "t5", codec: Tokenizer = TOKENIZER, length: int = 24, **section: Any) -> SpanCorruption:
    config = ModelConfig.model_validate(ENCODER_DECODERS[kind] | {"context_length": length})
    return open_span_corruption(SpanCorruptionSection(kind="span_corruption", **section), ModelContext(config, codec, (), 1, Path("base")))


def rows(objective: SpanCorruption) -> SpanRows:
    return SpanRows([(made_stream(TOKENIZER, 300), 1.0)], objective.lengths, seed=1, static=objective.static)


def whole_step(objective: SpanCorruption) -> Batch:
    [batch] = Loader(rows(objective), objective.collate, 8, 8).step(0)
    return batch


def test_a_row_token_by_token() -> None:
    """The row is the example of the paper's figure 2 without the last sentinel, which the released code never makes."""
    ids = np.arange(10, 20)  # Thank you for inviting me to your party last week
    objective = SpanCorruption(SpanLengths(10, 4, 2), [99, 98, 97], eos_id=1, start_id=0)
    batch = objective.collate(SpanBatch(ids[None], np.array([[2, 4]]), np.array([[2, 2]])))
    assert batch.input_ids.tolist() == [[10, 11, 99, 14, 15, 16, 17, 98, 1]]
    assert batch.labels.tolist() == [[99, 12, 13, 98, 18, 19, 1]]
    assert batch.decoder_input_ids.tolist() == [[0, 99, 12, 13, 98, 18, 19]]
    assert batch.padding_mask is batch.decoder_padding_mask is None


def test_inputs_and_targets_put_together_are_the_text() -> None:
    """For any draw, the targets fill the gaps of the inputs, in order, and the lengths are the computed ones."""
    objective = opened(rate=0.3, mean_span=2.0)
    made = rows(objective)
    gathered = made.gather(np.full(40, 3), np.arange(40))
    batch = objective.collate(gathered)
    assert batch.input_ids.shape == (40, 24)
    assert batch.labels.shape == (40, objective.lengths.targets)
    top = TOKENIZER.size - 1  # <extra_id_0>
    assert TOKENIZER.backend.id_to_token(top) == "<extra_id_0>"
    for row in range(40):
        inputs, labels = batch.input_ids[row].tolist(), batch.labels[row].tolist()
        sentinels = list(range(top, top - objective.lengths.spans, -1))
        assert [one for one in inputs if one in sentinels] == [one for one in labels if one in sentinels] == sentinels
        assert inputs[-1] == labels[-1] == TOKENIZER.eos_id
        assert labels[-2] not in sentinels
        begins = [i for i, one in enumerate(labels) if one in sentinels]
        gaps = {labels[i]: labels[i + 1 : end] for i, end in zip(begins, [*begins[1:], len(labels) - 1], strict=True)}
        text = [part for one in inputs[:-1] for part in (gaps[one] if one in sentinels else [one])]
        assert text == gathered.ids[row].tolist()


@pytest.mark.parametrize("kind", ENCODER_DECODERS)
def test_the_loss_is_that_of_transformers(kind: str, tmp_path: Any) -> None:
    objective, ours = opened(kind), model(ENCODER_DECODERS[kind]).eval()
    batch = whole_step(objective)
    theirs = opened_by(tmp_path / "model", THEIRS[kind], ours, TOKENIZER)
    with torch.no_grad():
        expected = theirs(input_ids=batch.input_ids, labels=batch.labels)  # shifts the labels itself
    assert_judged(ours, objective, batch, expected.loss, expected.logits)


def test_the_computed_lengths_are_those_of_the_batch() -> None:
    """The number of steps is planned by the computed lengths, whereas the log counts the batch."""
    objective = opened(masking="static")
    batch = whole_step(objective)
    assert batch.tokens == 8 * rows(objective).mean_tokens
    again = objective.collate(rows(objective).gather(np.full(8, 7), rows(objective).order(0)[:8]))
    assert torch.equal(batch.labels, again.labels)  # static


def test_what_does_not_fit_is_said_with_a_remedy() -> None:
    without = tokenizer("bpe_byte_fallback", variant="translation", vocab_size=400)
    for kind, arguments, message in (
        ("t5", {"codec": without}, "has none: use tokenizer.kind: unigram"),
        ("t5", {"length": 2048}, r"needs 114 sentinels .* has 100: raise objective.mean_span, or lower data.sequence_length"),
        ("2017", {"rate": 0.7}, "the targets of .* do not fit model.context_length 24; lower objective.rate"),
        ("t5", {"length": 2}, "rows of 2 tokens are too short"),
    ):
        with pytest.raises(ModelError, match=message):
            opened(kind, **arguments)


def test_relative_positions_have_no_end_so_targets_may_be_longer_than_inputs() -> None:
    objective = opened("t5", rate=0.7)
    assert objective.lengths.targets > 24
    assert torch.isfinite(objective.loss(model(ENCODER_DECODERS["t5"]), whole_step(objective))["lm"])
