"""A trial of learning rates before the first step: which is taken, what it costs, and that the run is the same as with that rate."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_calls import Recorder, call
from tiny_files import receipt
from tiny_runs import assert_same_bits, hashes, kept

import tfkit
from tfkit.carbon import Meter
from tfkit.data import BatchSizes, Loader
from tfkit.engine.request.resuming import _as_tried
from tfkit.engine.training_run.estimate import RateTrialPlan, plan_trial
from tfkit.engine.training_run.rate_trial import RowSubset, _divided, _trial_recipe
from tfkit.recipe import RecipeError, read_recipe
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.reading.read import read_document
from tfkit.recipe.schema.optimizer_sections import ScheduleSection
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.schedule import Schedule

STEPS = 26
GOOD, BAD = 3e-2, 3e-6  # of the tiny model in these steps
RATES = {"optimizer.lr": BAD, "training.trial_rates": [GOOD, 1e-7]}
TRYING = "trying learning rates"


@pytest.fixture(scope="module")
def document(document: dict[str, Any]) -> dict[str, Any]:
    """So many steps that trials take less than half of the run."""
    return {**document, "training": {**document["training"], "steps": STEPS}}


@pytest.fixture(scope="module")
def tried(base: Path, document: dict[str, Any]) -> Any:
    """Return the phases of the meter and the decisions of a run with a trial, which is in the folder tried."""

    def train() -> Any:
        phases: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Meter, "phase", lambda _, name, step=None: phases.append(name))
            listener = Recorder()
            tfkit.pretrain(document, RATES, run="tried", listener=listener)
        return [phases, [fact for name, *facts in listener.events for fact in facts if name == "decided"]]

    return call(base, train)


@pytest.mark.thorough
def test_the_best_rate_is_taken_and_the_run_is_the_one_with_it(base: Path, document: dict[str, Any], tried: Any) -> None:
    phases, decided = tried
    assert phases[: phases.index("train")][-2:] == ["trial", "setup"], "the energy of a trial is a phase of its own"
    found = receipt(base / "tried")["rate_trial"]
    assert (found["lr"], found["steps"], found["rows"]) == (GOOD, 4, 15)
    assert found["factor"] == pytest.approx((STEPS / 4) ** 0.32)
    losses = found["losses"]
    assert losses.keys() == {"3e-06", "0.03", "1e-07"}
    assert losses["0.03"] < 0.95 * losses["3e-06"]
    [line] = decided
    assert f"1e-07 {losses['1e-07']:.4g}, 3e-06 {losses['3e-06']:.4g}, 0.03 {losses['0.03']:.4g}. Chosen: 0.03 (the best)" in line
    resolved = read_recipe(str(base / "tried" / "recipe.yaml")).recipe
    assert (resolved.optimizer.lr, resolved.training.trial_rates) == (GOOD, None)
    call(base, lambda: tfkit.pretrain(document, {"optimizer.lr": GOOD}, run="given").to_dict())
    assert_same_bits(base / "tried", base / "given", STEPS)


def test_the_recipes_own_rate_stays_where_no_other_is_clearly_better(base: Path, document: dict[str, Any]) -> None:
    own = {"optimizer.lr": GOOD, "training.trial_rates": [0.9 * GOOD, 1e6]}
    call(base, lambda: tfkit.pretrain(document, own, run="stays").to_dict())
    found = receipt(base / "stays")["rate_trial"]
    assert found["lr"] == GOOD
    assert found["losses"]["1e+06"] is None or found["losses"]["1e+06"] > 0.95 * found["losses"]["0.03"]


@pytest.mark.thorough
def test_a_stopped_trial_begins_again(base: Path, document: dict[str, Any], tried: Any) -> None:
    def stopped() -> Any:
        steps: list[int] = []
        listener = Recorder()

        def should_stop() -> bool:
            names = [event[1] if event[0] == "progress" else event[0] for event in listener.events]
            steps[:] = [1] * names[names.index(TRYING) :].count("advance") if TRYING in names else []
            return len(steps) > 5  # in the second rate

        result = tfkit.pretrain(document, RATES, run="stopped-trial", listener=listener, should_stop=should_stop)
        return [result.status, result.steps, len(steps)]

    assert call(base, stopped) == ["stopped", 0, 6]
    assert not kept(base / "stopped-trial")
    call(base, lambda: tfkit.pretrain(document, RATES, run="stopped-trial", resume=True).to_dict())
    assert receipt(base / "stopped-trial")["rate_trial"] == receipt(base / "tried")["rate_trial"]
    assert hashes(base / "stopped-trial", STEPS) == hashes(base / "tried", STEPS)

    def record_resume() -> Any:
        listener = Recorder()
        tfkit.pretrain(document, RATES | {"training.steps": STEPS + 2}, run="stopped-trial", resume=True, listener=listener)
        return [event for event in listener.events if event[:2] == ["progress", TRYING]]

    assert call(base, record_resume) == [], "a run that goes on has its rate"


def test_a_run_that_begins_again_with_a_given_rate_reports_no_trial(base: Path, document: dict[str, Any]) -> None:
    """It was stopped after the trial of an earlier attempt, before a checkpoint."""
    run = base / "rate-given-later"

    def is_tried() -> bool:
        return (run / "run.json").exists() and "rate_trial" in receipt(run)

    def both() -> Any:
        first = tfkit.pretrain(document, RATES, run=run, should_stop=is_tried)
        return [first.steps, "rate_trial" in receipt(run), tfkit.pretrain(document, {"optimizer.lr": BAD}, run=run, resume=True).rate_trial]

    assert call(base, both) == [0, True, None]


def test_the_printed_recipe_goes_on_with_the_run_that_took_one_of_its_rates() -> None:
    begun, given = recipe_of(), recipe_of(trial_rates=[1e-2])
    assert _as_tried(given, begun.with_rate(1e-2)) == given.with_rate(1e-2)
    assert _as_tried(given, begun.with_rate(5e-2)) == given, "another rate is a difference"


def test_a_budget_ends_a_trial(base: Path, document: dict[str, Any]) -> None:
    def spent() -> Any:
        result = tfkit.pretrain(document, RATES | {"carbon.budget_seconds": 1e-3}, run="spent")
        return [result.status, result.steps, result.stopped_by]

    assert call(base, spent) == ["stopped", 0, "carbon.budget_seconds"]
    assert "rate_trial" not in receipt(base / "spent")


def test_a_plan_counts_the_trial(base: Path, document: dict[str, Any]) -> None:
    without, plan = call(base, lambda: [tfkit.plan(document, words).to_dict() for words in ({}, RATES)])
    assert (without["rate_trial"], without["flops"]["trial"]) == (None, 0)
    trial = plan["rate_trial"]
    assert (trial["rates"], trial["steps"]) == ([BAD, GOOD, 1e-7], 4)
    assert plan["flops"]["trial"] == trial["flops"] == pytest.approx(plan["flops"]["total"] - without["flops"]["total"])
    assert plan["table_seconds"]["trial"] > 0


def recipe_of(**training: Any) -> Recipe:
    values = {"model": {"preset": "gpt2"}, "data": {"train": [{"path": "x"}]}, "optimizer": {"lr": 1e-3}}
    return read_document({**values, "training": {"epochs": 2, "batch_size": 8, **training}}, "a recipe").recipe


def planned(rows: int, steps: int, of_step: float = 1e12, shard: int = 1) -> RateTrialPlan | str | None:
    of_row, recipe = of_step / 8 / 3, recipe_of(trial_rates=[3e-4, 3e-3])
    recipe = recipe.model_copy(update={"parallel": recipe.parallel.model_copy(update={"shard": shard})})
    return plan_trial(recipe, rows, steps, steps * of_step, of_step, of_row)


def test_a_trial_is_cheap() -> None:
    large = planned(8000, 1000)
    assert 0.12 < large.flops / 1000e12 <= 0.15, "of a run that takes long"
    small = planned(160, 60, 1e9)
    assert small.steps == 8
    assert small.flops <= 30e9, "half of a short run"
    least = planned(24, 27, 1e9)
    assert (least.steps, least.rows) == (4, 6)
    assert plan_trial(recipe_of(), 8000, 1000, 1e15, 1e12, 1e10) is None, "there is nothing to try"


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ((15, 100, 1e9), "a trial needs 16 rows, a quarter of them to score on, and the run trains on 15"),
        ((800, 4, 1e9), "the run has 4 steps, and each rate would be tried for 4"),
        ((800, 1, 1e9), "the run has 1 step, and each rate would be tried for 4"),
        ((800, 9, 1e9), "4 steps for each of 3 rates would take 178% of the run's FLOPs, and a trial may take 50%"),
        ((800, 60, 1e13), "4 steps for each of 3 rates would take 26.7% of the run's FLOPs, and a trial may take 15%"),
        ((8000, 1000, 1e12, 2), "the model is sharded over 2 ranks, and a trial on one rank might run out of memory"),
    ],
)
def test_the_one_reason_why_no_rates_are_tried_is_reported_with_its_numbers(numbers: tuple[Any, ...], reason: str) -> None:
    assert planned(*numbers) == reason


@pytest.mark.parametrize("kind", ["cosine", "inverse_sqrt", "noam"])
def test_the_peak_of_a_trial_is_that_of_the_run_times_its_factor(kind: str) -> None:
    """Also of noam, whose peak is higher after the shorter warm-up of a trial."""
    recipe = recipe_of(steps=1000, epochs=None)
    recipe = recipe.model_copy(update={"schedule": ScheduleSection(kind=kind, warmup_steps=100)})
    trial = _trial_recipe(recipe, RateTrialPlan((1e-3,), 20, 16, 3.5, 1.0), 1e-3)

    def peak(of: Recipe) -> float:
        schedule = Schedule(of.schedule, of.training.steps, dim=64)
        return of.optimizer.lr * max(map(schedule.factor, range(1, of.training.steps + 1)))

    assert peak(trial) == pytest.approx(3.5 * peak(recipe))


def test_a_rate_that_is_given_is_not_tried() -> None:
    recipe, words = {"training": {"epochs": 2, "trial_rates": [1e-3]}, "data": {"train": [{"path": "x"}]}}, ["model.preset=gpt2"]
    assert read_document(recipe, "a recipe", parse_overrides(words)).recipe.training.trial_rates == [1e-3]
    for rate in ("optimizer.lr=2e-3", "optimizer={kind: adamw, lr: 2e-3}"):
        assert read_document(recipe, "a recipe", parse_overrides([*words, rate])).recipe.training.trial_rates is None
    for both in (["training.trial_rates=[5e-3]", "optimizer.lr=2e-3"], ["optimizer.lr=2e-3", "training.trial_rates=[5e-3]"]):
        assert read_document(recipe, "a recipe", parse_overrides([*words, *both])).recipe.training.trial_rates == [5e-3]
    with pytest.raises(RecipeError, match=r"training.trial_rates: ppo trains on responses that are sampled"):
        read_document(recipe | {"objective": {"kind": "ppo", "reward": "x", "value": "y"}}, "a recipe", parse_overrides(["model.from=z"]))


class Numbers:
    """Rows that are their own numbers, in another order each epoch."""

    mean_tokens, longest = 1.0, 1

    def __len__(self) -> int:
        return 20

    def order(self, epoch: int) -> Any:
        return np.random.default_rng(epoch).permutation(20)

    def gather(self, epochs: Any, numbers: Any) -> Any:
        return numbers


def test_parts_of_rows_are_apart_and_in_the_order_of_all() -> None:
    rows, numbers = Numbers(), np.array([0, 3, 4, 11, 19])
    parts = [RowSubset(rows, numbers), RowSubset(rows, np.setdiff1d(np.arange(20), numbers))]
    read: list[Callable[[int], Any]] = [Loader(part, lambda found: found, BatchSizes(len(part)), 1).step for part in parts]
    for epoch in range(3):
        found = [np.concatenate(step(epoch)).tolist() for step in read]
        assert sorted(found[0]) == numbers.tolist()
        assert sorted([*found[0], *found[1]]) == list(range(20))
        places = [rows.order(epoch).tolist().index(number) for number in found[0]]
        assert all(first < second for first, second in pairwise(places))


class Weighted(Numbers):
    """Of weighted sources: an epoch reads other rows each time, and some of them twice."""

    def order(self, epoch: int) -> Any:
        return np.random.default_rng(epoch).integers(0, 50, 20)


def test_parts_of_weighted_sources_have_the_rows_of_the_first_epoch_and_epochs_of_one_length() -> None:
    rows = Weighted()
    scored, learned = _divided(read_recipe("smoke").recipe, rows, RateTrialPlan((1e-3,), 4, 5, 1.0, 0.0))
    assert not {*scored} & {*learned}
    assert {*scored, *learned} == {*rows.order(0)}
    assert len(scored) == 5
    for numbers in (scored, learned):
        part = RowSubset(rows, numbers)
        for epoch in range(9):
            assert len(part.order(epoch)) == len(part)
            assert {*part.gather(np.zeros(len(part)), part.order(epoch))} <= {*numbers}
