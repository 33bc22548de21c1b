"""The loop: what is due when, in which order, and where it continues after a stop."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from tiny_training import batches, fresh, stepper
from torch import nn

from tfkit.errors import Stopped, UnhealthyError
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.objective import Batch
from tfkit.recipe.schema.optimizer_sections import AdamWSection, ScheduleSection
from tfkit.training.health import LossHistory, StepReport, UnhealthyStepError
from tfkit.training.isolation import isolated
from tfkit.training.loop import Log, Plan, Progress, train, try_out
from tfkit.training.replay import Finding, Watch, take_steps, weights_sha256
from tfkit.training.schedule import Schedule
from tfkit.training.step import Stepper

OBJECTIVE = CausalLM()
LINEAR = ScheduleSection(kind="linear")


class Batches:
    """The steps of the made stream."""

    def step(self, index: int) -> Sequence[Batch]:
        return batches(OBJECTIVE, 4, index)

    def observed(self) -> dict[str, float]:
        return {}


@dataclass
class Recorder:
    """Hooks that write down what they were called for; a signal comes at `stop_at`, an evaluation ends early at `break_at`,
    and that of `enough_at` is enough.
    """

    stop_at: int | None = None
    break_at: int | None = None
    enough_at: int | None = None
    events: list[str] = field(default_factory=list)
    lines: list[Log] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    saved: dict[str, Any] = field(default_factory=dict)
    scored: set[int] = field(default_factory=set)
    step: int = 0

    def stepped(self, progress: Progress, report: StepReport, seconds: float) -> None:
        self.step = progress.step
        self.losses.append(report.loss)

    def skipped(self, error: UnhealthyStepError) -> None:
        self.events.append(f"skip {error.step}")

    def unhealthy(self, error: UnhealthyStepError) -> str:
        self.events.append(f"unhealthy {error.step}")
        return "see the replay"

    def out_of_memory(self, error: str) -> None:
        self.events.append(f"out of memory: {error}")

    def nondeterministic(self, reason: str) -> None:
        self.events.append(f"nondeterministic: {reason}")

    def log(self, line: Log) -> None:
        self.events.append(f"log {line.step}")
        self.lines.append(line)

    def save(self, progress: Progress) -> None:
        self.events.append(f"save {progress.step}")
        self.saved = progress.state()

    def evaluate(self, progress: Progress) -> None:
        if self.break_at == progress.step:
            raise Stopped("in the evaluation")
        self.events.append(f"evaluate {progress.step}")
        self.scored.add(progress.step)

    def evaluated(self, step: int) -> bool:
        return step in self.scored

    def should_stop_early(self) -> bool:
        return self.enough_at in self.scored

    def should_stop(self) -> bool:
        return self.stop_at is not None and self.step >= self.stop_at


def go(hooks: Recorder, plan: Plan, progress: Progress | None = None) -> Progress:
    progress = progress or Progress()
    train(stepper(fresh(), section=AdamWSection(lr=1e-3)), Batches(), Schedule(LINEAR, plan.steps), plan, hooks, progress)
    return progress


@pytest.mark.parametrize(
    ("hooks", "plan", "progress", "events"),
    [
        # A checkpoint comes before the evaluation of its step, and everything is due at the end.
        (Recorder(), Plan(7, 3, 4, 2), 0, "save 2; log 3; save 4; evaluate 4; log 6; save 6; log 7; save 7; evaluate 7"),
        (Recorder(), Plan(3, 10, None, None), 0, "log 3; save 3; evaluate 3"),
        # An evaluation that is enough: the run ends with a checkpoint of its last step, and takes no further step when it is resumed.
        (Recorder(enough_at=4), Plan(9, 3, 2, 3), 0, "evaluate 2; log 3; save 3; evaluate 4; save 4"),
        (Recorder(enough_at=4, scored={4}), Plan(9, 3, 2, 3), 4, ""),
        # A resumed run makes up for the evaluation first; at its end it takes no step.
        (Recorder(), Plan(4, 9, 2, 2), 2, "evaluate 2; log 4; save 4; evaluate 4"),
        (Recorder(scored={2}), Plan(4, 9, 2, 2), 2, "log 4; save 4; evaluate 4"),
        (Recorder(scored={4}), Plan(4, 1, 2, 2), 4, ""),
    ],
)
def test_what_is_due_and_in_which_order(hooks: Recorder, plan: Plan, progress: int, events: str) -> None:
    reached = go(hooks, plan, Progress(progress, 96 * progress))
    assert "; ".join(hooks.events) == events
    assert not plan.due(plan.evaluate_every, 0)
    last = hooks.enough_at or plan.steps
    assert (reached.step, reached.tokens, reached.loss_steps) == (last, 96 * last, 1 if hooks.enough_at and not progress else 0)


def test_a_line_is_the_mean_since_the_last_one() -> None:
    hooks = Recorder()
    go(hooks, Plan(steps=5, log_every=3, evaluate_every=None, save_every=None))
    first, second = hooks.lines
    assert first.loss == pytest.approx(sum(hooks.losses[:3]) / 3)
    assert second.loss == pytest.approx(sum(hooks.losses[3:]) / 2)
    assert (first.tokens, second.tokens) == (3 * 96, 5 * 96)
    assert (first.lr, second.lr) == (pytest.approx(1e-3 * 0.4), 0.0)
    assert first.tokens_per_second > 0


@pytest.mark.parametrize(
    ("hooks", "plan", "progress", "events"),
    [
        (Recorder(stop_at=3), Plan(9, 2, 3, None), 0, ["log 2", "save 3"]),  # no evaluation
        (Recorder(stop_at=4), Plan(9, 2, None, 2), 0, ["log 2", "save 2", "log 4", "save 4"]),
        (Recorder(break_at=2), Plan(9, 5, 2, None), 0, ["save 2"]),  # in the evaluation, which ends
        (Recorder(break_at=2), Plan(9, 5, 2, None), 2, []),  # which the resumed run makes up for
    ],
)
def test_a_stop_saves_once_and_evaluates_nothing(hooks: Recorder, plan: Plan, progress: int, events: list[str]) -> None:
    last = hooks.stop_at or 2
    message = f"stopped after step {last} of 9; its checkpoint is saved, and `resume=True` continues"
    with pytest.raises(Stopped, match=message) as caught:
        go(hooks, plan, Progress(progress, 96 * progress))
    assert (caught.value.exit_code, hooks.events) == (130, events)
    assert hooks.saved.get("loss_steps", last) == last % plan.log_every  # of the line that is not yet due


@pytest.mark.parametrize(("whole", "events"), [(0, []), (1, ["save 1"]), (2, ["save 2"]), (3, ["save 2", "save 3"])])
def test_a_stop_between_micro_batches_saves_the_last_whole_step(whole: int, events: list[str]) -> None:
    """Once; before the first step is whole there is nothing to save."""
    hooks = Recorder()
    progress, asked = Progress(), iter(range(100))
    hooks.should_stop = lambda: next(asked) == 2 * whole  # asked within each step, and after it
    with pytest.raises(Stopped, match=f"after step {whole} of 9; its" if whole else "within step 1 of 9: no step was taken yet"):
        go(hooks, Plan(steps=9, log_every=9, evaluate_every=None, save_every=2), progress)
    assert (hooks.events, progress.step, progress.tokens) == (events, whole, whole * 96)


def spoilt(taking: Stepper, *steps: int, by: float = math.nan) -> Stepper:
    """A stepper whose loss is multiplied in some steps."""
    loss = taking.objective.loss
    take = taking.take

    def counting(step: int, *arguments: Any) -> StepReport:
        factor = by if step in steps else 1.0
        taking.objective.loss = lambda model, batch: {name: value * factor for name, value in loss(model, batch).items()}
        return take(step, *arguments)

    taking.take = counting
    return taking


def test_unhealthy_steps_are_skipped_up_to_a_number() -> None:
    """A skipped step moves no weight, counts its tokens, and is in no mean."""
    plan = Plan(steps=6, log_every=2, evaluate_every=None, save_every=None, max_skipped_steps=2)
    hooks, progress = Recorder(), Progress()
    train(spoilt(stepper(fresh(), objective=CausalLM()), 3, 4), Batches(), Schedule(LINEAR, plan.steps), plan, hooks, progress)
    assert hooks.events == ["log 2", "skip 3", "skip 4", "log 4", "log 6", "save 6", "evaluate 6"]
    assert [line.skipped for line in hooks.lines] == [0, 2, 2]
    assert math.isnan(hooks.lines[1].loss)
    assert math.isfinite(hooks.lines[2].loss)
    assert (progress.step, progress.tokens, progress.skipped, progress.history.steps) == (6, 6 * 96, 2, 4)
    assert Progress.from_state(progress.state()) == progress

    hooks = Recorder()
    with pytest.raises(UnhealthyError, match=r"step 5: the loss is nan.*\. see the replay") as caught:
        train(spoilt(stepper(fresh(), objective=CausalLM()), 3, 4, 5), Batches(), Schedule(LINEAR, plan.steps), plan, hooks, Progress())
    assert caught.value.exit_code == 6
    assert hooks.events == ["log 2", "skip 3", "skip 4", "log 4", "unhealthy 5"]


def test_steps_that_are_repeated_for_a_replay_skip_the_jumps_that_the_run_skipped() -> None:
    plan = Plan(steps=16, log_every=20, evaluate_every=None, save_every=None, max_skipped_steps=1, loss_jump_sigmas=8.0)
    schedule, weights = Schedule(LINEAR, plan.steps), []
    for repeated in (False, True):
        taking, progress, hooks = spoilt(stepper(fresh(), objective=CausalLM()), 13, by=50.0), Progress(), Recorder()
        if repeated:
            take_steps(taking, Batches(), schedule, plan, progress, plan.steps)
        else:
            train(taking, Batches(), schedule, plan, hooks, progress)
            assert hooks.events[0] == "skip 13"
        assert progress.skipped == 1
        weights.append(weights_sha256(taking))
    assert weights[0] == weights[1]


def test_a_number_that_is_not_finite_between_two_modules_is_found_in_the_module_that_has_both() -> None:
    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(inputs) / 0)

    model = nn.Sequential(Parent())
    with Watch(model) as watch:
        model(torch.ones(1, 2))
    assert watch.finding == Finding("forward", "0", 0)


def test_out_of_memory_is_reported_and_the_step_taken_again() -> None:
    hooks, taking, take = Recorder(), stepper(fresh()), Stepper.take
    failures = iter([True, True, False])

    def full(step: int, *arguments: Any) -> StepReport:
        if step == 2 and next(failures):
            raise torch.OutOfMemoryError("CUDA out of memory.\nmore")
        return take(taking, step, *arguments)

    taking.take = full
    train(taking, Batches(), Schedule(LINEAR, 3), Plan(3, 1, None, None), hooks, Progress())
    assert hooks.events == ["log 1", *["out of memory: CUDA out of memory."] * 2, "log 2", "log 3", "save 3", "evaluate 3"]


def test_a_jump_is_recognised_by_mean_and_deviation() -> None:
    history = LossHistory()
    for number in range(10):
        assert history.highest(3.0) == math.inf  # too few to judge
        history.add(5.0 + (-1) ** number)
    assert history.mean == pytest.approx(5.0)
    assert history.variance == pytest.approx(1.0)
    assert history.highest(3.0) == pytest.approx(8.0)
    assert history.highest(None) == math.inf
    for _ in range(600):
        history.add(2.0)
    assert history.highest(3.0) == pytest.approx(2.0, abs=0.01)  # what is long past fades


def test_an_operation_without_a_deterministic_algorithm_is_allowed_when_it_is_tried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """put_ has none on any device."""
    loss = CausalLM.loss

    def with_put(self: CausalLM, *arguments: Any) -> Any:
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
        return loss(self, *arguments)

    monkeypatch.setattr(CausalLM, "loss", with_put)
    recorder = Recorder()
    with isolated():
        torch.use_deterministic_algorithms(True)
        with pytest.warns(UserWarning, match="put_"):
            try_out(stepper(fresh()), Batches(), recorder, Progress())
    [event] = recorder.events
    assert event.startswith("nondeterministic: put_ ")
