"""Labelled rows for the tests of objectives, read, encoded and batched as in a run: a source of random rows, and a tiny model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_files import write_rows
from tiny_layouts import BERT_LAYOUT

from tfkit.data import ExampleBatch, ExampleSet, TokenStream, example_set
from tfkit.data.sources.open_sources import open_source
from tfkit.hub import save_model
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer, build
from tfkit.objectives.objective import IGNORED, Batch
from tfkit.objectives.reward import Reward
from tfkit.objectives.text_to_text import TextToText
from tfkit.recipe.schema.data_sections import SourceSection, TokenizerSection
from tfkit.recipe.schema.objective_sections import TextToTextSection
from tfkit.recipe.schema.optimizer_sections import AdamWSection
from tfkit.recipe.schema.preference_sections import RewardSection
from tfkit.recipe.schema.roles import Role
from tfkit.tokenizer import Tokenizer, train_tokenizer
from tfkit.training.loss_module import LossModule
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights
from tfkit.training.step import Stepper

WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "hat", "and", "ran", "fast", "slow", "big", "small", "red"]
SIZES: dict[str, Any] = {"vocab_size": 300, "context_length": 24, "dim": 24, "num_heads": 3}
ENCODER, TWO_LAYERS = BERT_LAYOUT | SIZES | {"encoder_layers": 2}, SIZES | {"decoder_layers": 2}


def texts(count: int, seed: int = 1, longest: int = 12) -> list[str]:
    """Return random sentences of one to `longest` words."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, int(random.integers(1, longest + 1)))) for _ in range(count)]


def tokenizer(kind: str = "wordpiece", **settings: Any) -> Tokenizer:
    """Train a real tokenizer on random sentences."""
    return train_tokenizer(TokenizerSection.model_validate({"kind": kind, "vocab_size": 300, **settings}), texts(200, seed=9))


def examples(folder: Path, rows: Sequence[Mapping[str, Any]], roles: tuple[Role, ...], objective: Any) -> ExampleSet:
    """Write the rows as a jsonl file, and read and encode them with the objective."""
    path = write_rows(folder / "rows.jsonl", rows)
    return example_set(open_source(SourceSection(path=str(path)), "all", None, roles=roles), objective, "error")


def whole_batch(stored: ExampleSet, objective: Any) -> Batch:
    """Return all examples as one batch, in their order."""
    numbers = np.arange(len(stored))
    return objective.collate(ExampleBatch([[stored[number]] for number in numbers], numbers * 0, numbers))


def made_stream(codec: Tokenizer, count: int) -> TokenStream:
    """Return this many random sentences as documents, each with what the tokenizer puts around a text."""
    documents = [np.array(ids) for ids in codec.encode_texts(texts(count))]
    starts = np.cumsum([0, *map(len, documents)])
    return TokenStream("made", np.concatenate(documents), starts, np.diff(starts), 0, 299, "made", True)


def section_of(objective: Any) -> Any:
    """Return its section, or the default one of those that keep none."""
    without: dict[type, Any] = {Reward: RewardSection(kind="reward"), TextToText: TextToTextSection(kind="text_to_text")}
    return without.get(type(objective)) or objective.section


def stored(folder: Path, rows: Sequence[Mapping[str, Any]], objective: Any) -> ExampleSet:
    """Write and encode rows of the objective."""
    return examples(folder, rows, section_of(objective).roles, objective)


def batch_of(folder: Path, rows: Sequence[Mapping[str, Any]], objective: Any) -> Batch:
    """Return rows as one batch, in their order."""
    return whole_batch(stored(folder, rows, objective), objective)


def judged(ours: Transformer, objective: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss of a batch by its only target's count, as training has it, and the metrics of an evaluation."""
    with torch.no_grad():
        [(term, loss)] = objective.loss(ours, batch).items()
        return loss / objective.counts(batch)[term], objective.metrics(objective.measure(ours, batch))


def assert_judged(
    ours: Transformer, objective: Any, batch: Batch, loss: torch.Tensor, logits: torch.Tensor, accuracy: str = "token_accuracy"
) -> None:
    """Assert the loss and the metrics of a batch, given the loss and logits of transformers; of tokens there is a perplexity, too."""
    found, metrics = judged(ours, objective, batch)
    torch.testing.assert_close(found, loss, atol=1e-5, rtol=0)
    right = (logits.argmax(-1) == batch.labels)[batch.labels != IGNORED]
    of_texts = {"perplexity": pytest.approx(float(loss.exp()), rel=1e-4)} if accuracy == "token_accuracy" else {}
    assert metrics == {"loss": pytest.approx(float(loss), abs=1e-5), accuracy: int(right.sum()) / len(right), **of_texts}


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


def assert_figures(found: dict[str, Any], report: dict[str, Any], *labels: str) -> None:
    """Assert that the figures of these labels, in their order, are those of a report of scikit-learn or seqeval."""
    assert [*found] == [*labels]
    for label in labels:
        theirs = [report[label][name] for name in ("precision", "recall", "f1-score", "support")]
        assert [found[label][name] for name in ("precision", "recall", "f1", "support")] == pytest.approx(theirs), label
