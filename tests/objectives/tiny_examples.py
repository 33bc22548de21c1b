"""Labelled rows for the tests of objectives, read, encoded and batched as in a run: a source of random rows, and a tiny model."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_files import write_rows
from tiny_layouts import BERT_LAYOUT

from tfkit.data import ExampleBatch, ExampleRows, ExampleSet, Loader, example_set
from tfkit.data.sources.open_sources import open_source
from tfkit.hub import save_model
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer, build
from tfkit.objectives.objective import Batch
from tfkit.recipe.schema.data_sections import SourceSection, TokenizerSection
from tfkit.recipe.schema.optimizer_sections import AdamWSection
from tfkit.recipe.schema.roles import Role
from tfkit.tokenizer import Tokenizer, train_tokenizer
from tfkit.training.loss_module import LossModule
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights
from tfkit.training.step import Stepper

# Relative: for up to 32 cross-entropies summed in float32, as those of a step are, in one sum or in several (32 x 2^-24).
SUM_ROUNDING = 2e-6
WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "hat", "and", "ran", "fast", "slow", "big", "small", "red"]


def texts(count: int, seed: int = 1, longest: int = 12) -> list[str]:
    """Return random sentences of one to `longest` words."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, int(random.integers(1, longest + 1)))) for _ in range(count)]


def tokenizer(kind: str = "wordpiece", **settings: Any) -> Tokenizer:
    """Train a real tokenizer on random sentences."""
    return train_tokenizer(TokenizerSection.model_validate({"kind": kind, "vocab_size": 300, **settings}), texts(200, seed=9))


def examples(folder: Path, rows: Sequence[Mapping[str, Any]], roles: tuple[Role, ...], objective: Any) -> ExampleSet:
    """Write the rows as a jsonl file, and read and encode them with the objective."""
    path = folder / "rows.jsonl"
    write_rows(path, rows)
    return example_set(open_source(SourceSection(path=str(path)), "all", None, roles=roles), objective, "error")


def batches(
    stored: ExampleSet, objective: Any, micro_batch_size: int, *, batch_size: int = 8, step: int = 0, **settings: Any
) -> list[Batch]:
    """Return the micro-batches of one step."""
    rows = ExampleRows([(stored, 1.0)], seed=1, batch_size=batch_size, **settings)
    return Loader(rows, objective.collate, batch_size, micro_batch_size).step(step)


def whole_batch(stored: ExampleSet, objective: Any) -> Batch:
    """Return all examples as one batch, in their order."""
    numbers = np.arange(len(stored))
    return objective.collate(ExampleBatch([[stored[number]] for number in numbers], numbers * 0, numbers))


def opened(folder: Path, kind: Any, ours: Transformer, codec: Tokenizer, **written: Any) -> Any:
    """Save a model in a new folder, and load it as a class of transformers."""
    folder.mkdir()
    save_model(folder, ours.config, ours.state_dict(), codec, **written)
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def model(config: Mapping[str, Any]) -> Transformer:
    """Build a model with the same random weights at every call, large enough that a mistake shows."""
    return build(ModelConfig.model_validate({"init": {"std": 0.3}, **config}), seed=3)


def stepper_of(trained: Transformer, objective: Any, **adamw: float) -> Stepper:
    weights = Weights(trained, torch.float32)
    optimizer = Optimizer(weights.master, AdamWSection.model_validate(adamw))
    return Stepper(LossModule(trained, objective), weights, optimizer, device=torch.device("cpu"), seed=1)


def take_steps(
    config: Mapping[str, Any], objective: Any, micro_batches: Callable[[int], list[Batch]], steps: int = 3
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Return the losses of a few real steps, and the weights after them."""
    trained = model({**config, "init": {"std": 0.1}})
    # With AdamW's usual eps, an entry whose gradient is all rounding moves by a whole learning rate, in either direction.
    stepper = stepper_of(trained, objective, lr=3e-3, eps=1e-3)
    found = [stepper.take(step + 1, micro_batches(step), 1.0).loss for step in range(steps)]
    return found, {name: tensor.detach() for name, tensor in trained.named_parameters()}


def losses_and_weights(
    config: Mapping[str, Any], stored: ExampleSet, objective: Any, micro_batch_size: int, steps: int = 3, **settings: Any
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Return the results of a few real steps, for 1, 8 and 4 micro-batches of a step's 8 rows; `settings` are of the rows."""
    return take_steps(config, objective, lambda step: batches(stored, objective, micro_batch_size, step=step, **settings), steps)


def assert_same_steps(
    config: Mapping[str, Any], stored: ExampleSet, objective: Any, *, rel: float = SUM_ROUNDING, **settings: Any
) -> list[float]:
    """Assert that steps of 8 rows do not depend on the micro-batches, and return the losses; `rel`: their tolerance, `settings`: of the
    rows.
    """

    def micro_batches(size: int, step: int) -> list[Batch]:
        return batches(stored, objective, size, step=step, **settings)

    return assert_any_micro_batches(config, objective, micro_batches, rel)


def assert_any_micro_batches(
    config: Mapping[str, Any], objective: Any, micro_batches: Callable[[int, int], list[Batch]], rel: float = SUM_ROUNDING
) -> list[float]:
    """Assert that losses and weights do not depend on the micro-batch, whose size and step are given, and return the losses."""
    losses, weights = take_steps(config, objective, lambda step: micro_batches(8, step))
    for size in (1, 2, 4):
        found, found_weights = take_steps(config, objective, lambda step, size=size: micro_batches(size, step))
        assert found == pytest.approx(losses, rel=rel)
        for name, tensor in weights.items():
            torch.testing.assert_close(found_weights[name], tensor, atol=1e-6, rtol=0, msg=name)
    return losses


ENCODER = BERT_LAYOUT | {"vocab_size": 300, "context_length": 24, "encoder_layers": 2, "dim": 24, "num_heads": 3}
