"""Fewer rows than training.batch_size: a step has the same rows on any number of ranks, or is refused where they cannot be divided."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_files import write_rows
from tiny_runs import exact, run_tfkit
from two_ranks import ended, start_ranks

from tfkit.carbon import Meter
from tfkit.data import Loader
from tfkit.engine.assembly.training_data import TrainingData, prepare_data
from tfkit.engine.listener import Silent
from tfkit.engine.training_run.micro_batches import limit_batch_size
from tfkit.errors import UsageError
from tfkit.objectives.registry import open_rows
from tfkit.recipe import open_recipe
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.schema.sections import Recipe
from tfkit.run.signals import StopSignals

RECIPE = """
model: {preset: bert-tiny, dim: 16, hidden_dim: 32, context_length: 16}
tokenizer: {kind: wordpiece, vocab_size: 100}
objective: {kind: classification, labels: [a, b]}
data: {train: [{path: rows.jsonl}]}
training: {steps: 3, batch_size: 32, precision: fp32, log_every: 1}
schedule: {warmup_steps: 0}
evaluation: {every: null}
carbon: {enabled: false}
"""


@pytest.fixture
def place(tmp_path: Path, in_tmp_path: None) -> Path:
    (tmp_path / "few.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def write_short_rows(count: int) -> None:
    write_rows(Path("rows.jsonl"), [{"text": f"the cat sat {number}", "label": "ab"[number % 2]} for number in range(count)])


def limited(recipe: Recipe, data: TrainingData, ranks: int) -> Recipe | None:
    """Return the recipe with its limited batch; None if it is refused."""
    with suppress(UsageError):
        return limit_batch_size(recipe, data, Silent(), ranks)
    return None


def rows_of_steps(recipe: Recipe, data: TrainingData, ranks: int) -> list[list[int]]:
    """Return the numbers of the rows that all ranks read in each of a few steps, in the order of the micro-batches."""
    rows, micro = open_rows(recipe, data.objective, data.train, data.config), recipe.training.micro_batch_size or 1
    steps = []
    for step in range(4):
        by_rank = []
        for rank in range(ranks):
            loader: Loader[Any] = Loader(rows, lambda batch: batch.numbers, recipe.training.batch_size, micro)
            loader.rank, loader.ranks = rank, ranks
            by_rank.append(loader.step(step))
        steps.append(np.concatenate([part for parts in zip(*by_rank, strict=True) for part in parts]).tolist())
    return steps


@pytest.mark.sampled(3)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 8, 9, 12])
def test_any_number_of_ranks_reads_the_same_rows_in_each_step(place: Path, count: int) -> None:
    write_short_rows(count)
    source = open_recipe("few.yaml")
    with StopSignals() as stop:
        data = prepare_data(source.read(), torch.device("cpu"), Silent(), stop, Meter(), None)
    for batch in (1, 2, 4, 5, 6, 8, 12, 24, 36):
        for micro in (micro for micro in (None, 1, 2, 3, 4, 6) if batch % (micro or 1) == 0):
            recipe = source.read(parse_overrides([f"training.batch_size={batch}", f"training.micro_batch_size={json.dumps(micro)}"]))
            alone = limited(recipe, data, 1)
            assert alone.training.batch_size <= max(count, batch if batch <= count else 0)
            for ranks in (2, 3, 4):
                if batch % (ranks * (micro or 1)):
                    continue  # the recipe itself is refused, whatever the rows
                together = limited(recipe, data, ranks)
                size, own_micro = alone.training.batch_size, alone.training.micro_batch_size or 1
                assert (together is None) == (size % (ranks * own_micro) != 0)
                if together is not None:
                    assert together == alone
                    assert rows_of_steps(together, data, ranks) == rows_of_steps(alone, data, 1)


def test_one_and_two_ranks_take_the_same_steps(place: Path) -> None:
    write_short_rows(6)
    words = ["pretrain", "few.yaml", "--threads", "1", "training.batch_size=36", "training.micro_batch_size=3", "--run"]
    run_tfkit(place, [*words, "one"]).exits(0)
    ranks = ended(start_ranks(place, [*words, "two"]), 0)
    assert "there are 6 rows to train on: a step has 6 rows" in ranks[0].err
    assert exact(Path("two")) == exact(Path("one"))


REFUSAL = (
    "training.batch_size is 32, and there are 5 rows to train on: a step has 5 rows, which cannot be divided evenly among 2 ranks: "
    "give training.batch_size=4, or start fewer ranks"
)


def test_rows_that_two_ranks_cannot_divide_are_refused_also_by_plans(place: Path) -> None:
    """Both then train with the batch size that the message names."""
    write_short_rows(5)
    command = ["pretrain", "few.yaml", "--threads", "1", "--run", "two"]
    for planned in ([*command, "--dry-run", "--ranks", "2"], ["plan", "few.yaml", "--ranks", "2"]):
        run_tfkit(place, planned).exits(2, REFUSAL)
    refused, _ = [process.wait() for process in start_ranks(place, command)]
    refused.exits(2, REFUSAL)
    ended(start_ranks(place, [*command, "training.batch_size=4"]), 0)
