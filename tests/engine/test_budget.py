"""The rules of a budget, with a scripted power and a clock of our own: how far it may be exceeded, what it warns of, when it refuses."""

import json
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfkit.carbon.attempt_files import Ledger, tick_line
from tfkit.carbon.footprint import Reading, Totals
from tfkit.engine import listener
from tfkit.engine.chains.chain_plan import in_stage
from tfkit.engine.listener import Silent, StoppingListener
from tfkit.engine.training_run.budget import Budget
from tfkit.engine.training_run.usage import spent_by_siblings, spent_in
from tfkit.errors import BudgetReached, SpentBudgetError, Stopped, UsageError
from tfkit.recipe.schema.carbon_section import CarbonSection

G_PER_KWH = 100.0
HEADER = {"kind": "header", "schema_version": 1, "run_id": "run", "node": 0, "place": {}, "pue": 1.0}


NEVER: Any = SimpleNamespace(  # a stop request that nobody makes
    should_stop=lambda: False, raise_if_requested=lambda message="": None, at_once=lambda message="": nullcontext()
)


class Warnings(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)


@dataclass
class Machine:
    """A machine whose power changes, its clock, and a meter that reads it every tick."""

    tick: float
    now: float = 0.0
    energy_wh: float = 0.0
    before: Reading = field(default_factory=Reading)  # of earlier attempts
    seen: Reading = field(default_factory=lambda: Reading(status="ok"))
    seen_at: float = 0.0
    failing: bool = False
    seconds_to_stop: float = 0.0

    def work(self, seconds: float, power_w: float) -> None:
        end = self.now + seconds
        while self.now < end:
            step = min(end, (self.now // self.tick + 1) * self.tick) - self.now
            self.now, self.energy_wh = self.now + max(step, 1e-9), self.energy_wh + power_w * step / 3600
            if self.now % self.tick < 1e-9 or self.tick - self.now % self.tick < 1e-9:
                self.fresh_reading()

    def fresh_reading(self, timeout: float = 0.0) -> Reading:
        if not self.failing:
            passed = self.now - self.seen_at
            total = self.before.energy_wh + self.energy_wh
            power = (total - self.seen.energy_wh) * 3600 / passed if passed > 0.01 else self.seen.power_w
            self.seen = Reading(total, total * G_PER_KWH / 1000, power, self.now, "ok")
            self.seen_at = self.now
        return self.seen

    def reading(self) -> Reading:
        return replace(self.seen, failing=self.failing)

    def extrapolated_reading(self) -> Reading:
        more = 0.0 if self.failing else self.seen.power_w * (self.now - self.seen_at) / 3600
        energy = self.seen.energy_wh + more
        return replace(self.reading(), energy_wh=energy, emissions_g=energy * G_PER_KWH / 1000)


def attempt(machine: Machine, folder: Path, listener: Silent | None = None, **limits: Any) -> Budget:
    carbon = CarbonSection(every_seconds=machine.tick, **limits)
    budget = Budget(carbon, folder, NEVER, listener or Silent(), clock=lambda: machine.now)
    machine.before = Reading(energy_wh=spent_in(folder).kwh * 1000)
    machine.seen = replace(machine.seen, energy_wh=machine.before.energy_wh)
    budget.start(machine)
    return budget


def record(folder: Path, machines: list[Machine], status: str = "killed") -> None:
    """Leave the run folder as its attempts did: the sidecar outlives a kill, so the ledger has all."""
    attempts = [{"number": number, "status": status, "seconds": machine.now} for number, machine in enumerate(machines, 1)]
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"schema_version": 1, "run_id": "run", "status": status, "attempts": attempts}))
    machine, number = machines[-1], len(machines)
    ledger = Ledger(folder / "carbon", 0, number)
    energy, grams = machine.energy_wh, machine.energy_wh * G_PER_KWH / 1000
    for line in (
        HEADER | {"attempt": number},
        tick_line(1e9, "train", machine.now, Totals(machine.now, energy, energy, 0, 0, grams), 1.0, "ok"),
    ):
        ledger.append(line)


NAMES = st.sampled_from(["g", "kwh", "seconds"])
STEP = st.tuples(st.floats(0.05, 1.0), st.floats(1, 400))  # seconds, watts


@settings(max_examples=60, deadline=None)
@given(NAMES, st.floats(0.01, 1), st.lists(STEP, min_size=1, max_size=60), st.sets(st.integers(0, 59)), st.sampled_from([1.0, 5.0]))
def test_a_budget_is_exceeded_by_a_tick_at_most_over_any_power_and_any_kills(tmp_path_factory, name, fraction, steps, kills, tick):
    """Steps shorter than a tick; the one that reaches the limit is finished."""
    folder, machines = tmp_path_factory.mktemp("run") / "run", [Machine(tick)]
    whole = {"seconds": sum(seconds for seconds, _ in steps), "kwh": sum(seconds * watts for seconds, watts in steps) / 3.6e6}
    whole["g"] = whole["kwh"] * G_PER_KWH
    limit = fraction * whole[name]
    budget = attempt(machines[0], folder, **{f"budget_{name}": limit})
    budget.begin_steps(len(steps), dict.fromkeys(whole, 0.0))
    for index, (seconds, watts) in enumerate(steps):
        machines[-1].work(seconds, watts)
        budget.stepped(len(steps) - index - 1)
        if budget.should_end():
            break
        if index in kills:
            record(folder, machines)
            machines.append(Machine(tick))
            try:
                budget = attempt(machines[-1], folder, **{f"budget_{name}": limit})
            except UsageError:
                break
            budget.begin_steps(len(steps) - index - 1, dict.fromkeys(whole, 0.0))
    used = {"seconds": sum(machine.now for machine in machines), "kwh": sum(machine.energy_wh for machine in machines) / 1000}
    used["g"] = used["kwh"] * G_PER_KWH
    most = max(watts for _, watts in steps) / 3.6e6
    slack = {"seconds": 1.0, "kwh": most, "g": most * G_PER_KWH}[name] * (tick + max(seconds for seconds, _ in steps))
    assert used[name] <= limit + slack
    if index < len(steps) - 1:
        assert used[name] >= limit - slack, "nothing stops early"


@pytest.mark.parametrize(("seconds", "steps"), [(60.0, 4), (1.0, 290)])
def test_a_step_that_is_longer_than_a_tick_is_not_begun_beyond_the_limit(tmp_path: Path, seconds: float, steps: int) -> None:
    """36 W with 289.5 s of a budget: the fifth minute is left out, but the 290th second is not."""
    machine = Machine(5.0)
    budget = attempt(machine, tmp_path / "run", budget_kwh=36 * 289.5 / 3.6e6)
    budget.begin_steps(10**6, {"kwh": 0.0})
    done = 0
    while not budget.should_end():
        machine.work(seconds, 36)
        done += 1
        budget.stepped(10**6 - done)
    assert done == steps
    assert (" and the next step would take some 600 mWh" in str(budget.ending(Stopped("x")))) == (seconds == 60)


@settings(max_examples=60, deadline=None)
@given(st.floats(5, 100), st.lists(st.floats(0.05, 2.0), min_size=1, max_size=100), st.floats(0, 3), st.floats(0, 3), st.integers(1, 5))
def test_a_budget_of_time_covers_the_end_of_the_run(
    tmp_path_factory: Any, limit: float, steps: list[float], save: float, stop: float, every: int
) -> None:
    """Where no step is longer than the mean of those before it, and a save has been measured."""
    machine = Machine(5.0, seconds_to_stop=stop)
    budget = attempt(machine, tmp_path_factory.mktemp("run") / "run", budget_seconds=limit)
    steps.sort(reverse=True)
    budget.begin_steps(len(steps), {"seconds": 0.0})
    for done, seconds in enumerate(steps, 1):
        machine.work(seconds, 36)
        if saved := done % every == 0:
            with budget.saving():
                machine.now += save
        budget.stepped(len(steps) - done)
        if budget.should_end():
            break
    if done < len(steps):
        assert machine.now * (1 + 1 / done) + save + stop > limit, "another step would have exceeded it"
    if done > every:
        assert machine.now + (0 if saved else save) + stop <= limit + 1e-6


def test_it_warns_once_at_80_percent_and_once_of_the_forecast_or_of_the_plan(tmp_path: Path) -> None:
    machine, listener = Machine(1.0), Warnings()
    attempt(machine, tmp_path / "planned", listener, budget_g=5.0).begin_steps(10, {"g": 9.0})  # before the first step
    assert listener.said.pop().startswith("carbon.budget_g: by the plan of the run the whole run takes some 9 g, and the budget is 5 g;")
    budget = attempt(machine, tmp_path / "run", listener, budget_kwh=36 * 100 / 3.6e6)
    budget.begin_steps(200, {"kwh": 0.0})
    for index in range(99):
        machine.work(1.0, 36)
        budget.stepped(199 - index)
        if index == 50:
            (forecast,) = listener.said
            assert forecast.startswith("carbon.budget_kwh: by the steps so far the whole run takes some 2 Wh, and the budget is 1 Wh")
    assert len(listener.said) == 2
    assert listener.said[1] == "carbon.budget_kwh: 800 mWh of 1 Wh are used"


@pytest.mark.parametrize("policy", ["warn", "stop"])
def test_a_meter_that_fails_is_a_warning_or_the_end(tmp_path: Path, policy: str) -> None:
    machine, listener = Machine(1.0), Warnings()
    budget = attempt(machine, tmp_path / "run", listener, budget_g=1000.0, on_meter_failure=policy)
    budget.begin_steps(100, {"g": 0.0})
    for index in range(20):
        machine.failing = index >= 5 or index == 2  # one bad reading is none
        machine.work(1.0, 36)
        budget.stepped(99 - index)
        assert budget.should_end() == (policy == "stop" and index >= 7), index
    assert len(listener.said) == 1
    assert listener.said[0].startswith("the carbon meter has failed, so the budget of energy cannot be kept")
    if policy == "stop":
        ending = budget.ending(Stopped("its checkpoint is saved"))
        assert isinstance(ending, BudgetReached)
        assert (ending.exit_code, ending.larger) == (7, "carbon.on_meter_failure=warn")


def test_attempts_and_the_runs_beside_count(tmp_path: Path) -> None:
    """A sweep of a single run and a recipe with two stages: each has used 0.1 Wh in ten seconds."""
    for name in ("sweep/one", "sweep/two/base", "sweep/two/tune"):
        (tmp_path / name).mkdir(parents=True)
        record(tmp_path / name, [Machine(1.0, now=10.0, energy_wh=0.1)], "finished")
    group = {"schema_version": 1, "run_id": "x", "status": "running", "attempts": []}
    (tmp_path / "sweep/run.json").write_text(json.dumps(group | {"kind": "sweep", "trials": {"one": {}, "two": {}, "three": {}}}))
    (tmp_path / "sweep/two/run.json").write_text(json.dumps(group | {"kind": "stages", "stages": {"base": {}, "tune": {}}}))
    assert spent_in(tmp_path / "sweep").seconds == 30.0
    assert spent_in(tmp_path / "sweep").kwh == pytest.approx(0.0003)
    assert spent_by_siblings(tmp_path / "sweep/one").g == pytest.approx(0.02)
    assert spent_by_siblings(tmp_path / "sweep/two/tune").seconds == 20.0
    assert spent_by_siblings(tmp_path / "sweep").seconds == 0.0
    with pytest.raises(BudgetReached, match=r"carbon\.budget_seconds: 30 s of 30 s are used by the other runs"):
        attempt(Machine(1.0), tmp_path / "sweep/three", budget_seconds=30.0)
    for stage, key in ((nullcontext(), "carbon"), (in_stage("tune"), "tune.carbon")):
        spent = rf"30 s of 30 s are used\. Give a larger budget to continue, such as {key}\.budget_seconds=60"
        with pytest.raises(SpentBudgetError, match=spent), stage:
            attempt(Machine(1.0), tmp_path / "sweep/two/tune", budget_seconds=30.0)
    attempt(Machine(1.0), tmp_path / "sweep/two/tune", budget_seconds=30.1)


def test_a_budget_that_ended_the_run_is_spent_although_something_is_left(tmp_path: Path) -> None:
    """The last attempt ended before a step that would have exceeded the limit."""
    record(tmp_path / "run", [Machine(1.0, now=29.0)], "stopped")
    carbon = CarbonSection(enabled=False, budget_seconds=30.0)
    Budget(carbon, tmp_path / "run", NEVER, Silent(), ended_by="carbon.budget_g")
    with pytest.raises(UsageError, match=r"29 s of 30 s are used\. Give a larger budget to continue, such as carbon\.budget_seconds=60"):
        Budget(carbon, tmp_path / "run", NEVER, Silent(), ended_by="carbon.budget_seconds")


def test_a_budget_ends_what_is_counted_where_it_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While data are prepared; also where a library has made another exception of it."""
    monkeypatch.setattr(listener, "LOOK_SECONDS", 0.0)
    machine = Machine(1.0)
    budget = Budget(CarbonSection(enabled=False, budget_seconds=10.0), tmp_path, NEVER, Silent(), lambda: machine.now)
    budget.start(machine)

    def read() -> None:
        with budget.stop.at_once("no text was read"), StoppingListener(Silent(), budget.stop, "as it was read").progress("", 20) as count:
            for _ in range(20):
                machine.now += 1.0
                try:
                    count.advance()
                except Stopped as error:
                    raise RuntimeError("the library's own") from error

    with pytest.raises(Stopped, match="no text was read") as stopped:
        read()
    assert machine.now == 10.0
    assert isinstance(budget.ending(stopped.value), BudgetReached)
