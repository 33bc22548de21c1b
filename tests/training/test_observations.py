"""Observations of a step: exact over any cut into micro-batches, joined between the lines of the log, and kept in a checkpoint."""

import json
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pytest
import torch
from test_loop import LINEAR, Batches, Recorder
from tiny_training import batches, fresh, stepper
from torch import Tensor

from tfkit.errors import Stopped
from tfkit.model.transformer import Transformer
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.log_probs import label_log_probs
from tfkit.objectives.objective import IGNORED, Batch, Observation
from tfkit.recipe.schema.optimizer_sections import AdamWSection
from tfkit.training.health import StepReport
from tfkit.training.loop import Plan, Progress, train
from tfkit.training.schedule import Schedule


class Observed(CausalLM):
    """Next tokens, whose mean probability and largest loss are observed."""

    observed: Mapping[str, Observation] = MappingProxyType({"probability": Observation("lm"), "largest_loss": Observation()})

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        found = label_log_probs(model, model(**batch.inputs()).hidden, batch.labels)
        return {"lm": -found.sum(), "probability": found.exp().sum(), "largest_loss": -found.min()}


OBJECTIVE = Observed()


class Numbered(Batches):
    """With a number of the loader's own: the step, which is not finite in step 3."""

    def step(self, index: int) -> Sequence[Batch]:
        self.index = index
        return super().step(index)

    def observed(self) -> dict[str, float]:
        return {"index": math.nan if self.index == 2 else float(self.index)}


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_any_micro_batches_give_the_same_observations(size: int) -> None:
    report = stepper(fresh(), objective=OBJECTIVE).take(1, batches(OBJECTIVE, size), 1.0)
    whole, model = batches(OBJECTIVE, 8)[0], fresh()
    with torch.no_grad():
        found = label_log_probs(model, model(**whole.inputs()).hidden, whole.labels)
    assert len(found) == int((whole.labels != IGNORED).sum())
    assert report.observed == pytest.approx({"probability": float(found.exp().mean())}, rel=1e-5)
    assert report.largest == pytest.approx({"largest_loss": float(-found.min())}, rel=1e-5)
    assert [*report.losses] == ["lm"]
    assert report.loss == pytest.approx(float(-found.mean()), rel=1e-5)


def test_an_observation_has_no_part_in_the_gradient() -> None:
    seen, plain = (stepper(fresh(), objective=one, section=AdamWSection(lr=1e-2)) for one in (OBJECTIVE, CausalLM()))
    for step in (1, 2):
        a, b = (one.take(step, batches(OBJECTIVE, 4, step), 1.0) for one in (seen, plain))
        assert (a.loss, a.grad_norm) == (b.loss, b.grad_norm)
    assert (plain.take(3, batches(OBJECTIVE, 4), 1.0).observed, b.largest) == ({}, {})


def test_a_line_has_the_means_and_maxima_of_its_steps_also_after_resuming() -> None:
    """A run that is resumed between two lines logs the same bits; a number that is not finite is left out."""
    plan = Plan(steps=6, log_every=4, evaluate_every=None, save_every=2)

    def go(hooks: Recorder, progress: Progress) -> None:
        train(trained, Numbered(), Schedule(LINEAR, plan.steps), plan, hooks, progress)

    trained, whole = stepper(fresh(), objective=OBJECTIVE), Recorder()
    go(whole, Progress())
    first, last = (line.observed for line in whole.lines)
    assert (first["index"], last["index"]) == ((0 + 1 + 3) / 3, 4.5)
    assert [*first] == ["probability", "index", "largest_loss"]

    trained, half, after = stepper(fresh(), objective=OBJECTIVE), Recorder(stop_at=2), Recorder()
    with pytest.raises(Stopped, match="stopped after step 2"):
        go(half, Progress())
    progress = Progress.from_state(json.loads(json.dumps(half.saved, allow_nan=False)))
    assert progress.observed["index"] == [1.0, 2]
    go(after, progress)
    assert [line.observed for line in after.lines] == [line.observed for line in whole.lines]
    assert [line.loss for line in after.lines] == [line.loss for line in whole.lines]


def test_the_state_of_an_older_version_has_none() -> None:
    state = Progress(step=3, term_sums={"lm": 1.0}).state()
    del state["observed"], state["largest"]
    progress = Progress.from_state(state)
    progress.add(StepReport(1.0, {"lm": 1.0}, 1.0, 1e-3, 8, {"seen": 2.0}, {"most": math.inf}))
    assert (progress.observed, progress.largest) == ({"seen": [2.0, 1]}, {})
