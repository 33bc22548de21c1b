"""The budget of a run in grams of CO2e, energy or time. It counts all attempts (start and resumptions) of the run and of its
siblings (the other stages of its recipe or trials of its sweep), and ends a run that reaches it.

The budget is checked after each step, and wherever a run checks whether to stop. The last step is the one that reaches the limit, or the
one before a step that would exceed it. For a limit of time, the end of the attempt counts, too: its last save and the stop of the
energy meter. A limit of energy or grams may be exceeded by as much as is used between two readings of the meter.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tfkit.carbon import Meter
from tfkit.engine.listener import Listener, StopRequest
from tfkit.engine.training_run.usage import Amounts, Clock, Usage, is_measured
from tfkit.errors import BudgetReached, SpentBudgetError, Stopped
from tfkit.recipe.schema.carbon_section import CarbonSection
from tfkit.units import format_energy, format_mass, format_seconds

NEAR = 0.8  # fraction of the limit at which the user is warned
SURE_STEPS = 5  # number of steps after which the use of the remaining steps is forecast
LONGER, LATER_SECONDS = 1.2, 30.0  # a run planned for n minutes is stopped after LONGER * n minutes + LATER_SECONDS
SILENT_TICKS = 2  # after this many reading intervals without a good reading, the meter counts as failed
LONGEST_TICK_SECONDS = 5.0  # for SILENT_TICKS, a longer reading interval counts as this long


def format_amount(name: str, value: float) -> str:
    """Format an amount with its unit. `name`: its field in `Amounts`: g, kwh or seconds."""
    if name == "seconds":
        return format_seconds(value) if value >= 60 else f"{value:.3g} s"
    return format_mass(value) if name == "g" else format_energy(1000 * value)


def with_latest_end(carbon: CarbonSection, minutes: float, earlier: float) -> CarbonSection:
    """Return the recipe's `carbon` section with a limit on the time, somewhat above `minutes`; unchanged if it has a time limit.

    `earlier`: the seconds of earlier attempts, which left no checkpoint; they count against the limit, so it is raised by as much.
    """
    latest = earlier + LONGER * 60 * minutes + LATER_SECONDS
    return carbon if carbon.budget_seconds is not None else carbon.model_copy(update={"budget_seconds": latest})


def require_unspent(carbon: CarbonSection, folder: Path, spent: Amounts, ended_by: str | None = None) -> None:
    """Raise SpentBudgetError if a run or a sweep has used up its budget, so that it cannot continue.

    `ended_by`: the field of the limit that ended the last attempt, if not changed since; it counts as used up even if a little is left.
    """
    for name, limit in carbon.limits.items():
        if (used := asdict(spent)[name]) >= limit or _key(name) == ended_by:
            raise SpentBudgetError(f"{folder}: {_used(name, used, limit)}", f"{_key(name)}={_larger(max(used, limit))}")


class Budget:
    """The budget of one attempt. `carbon`: the recipe's section, with a limit. `ended_by`: the limit that ended the last attempt, or None.

    Raises SpentBudgetError if the budget of a run with earlier attempts is used up, BudgetReached if siblings have used up a new run's.
    """

    def __init__(
        self,
        carbon: CarbonSection,
        folder: Path,
        stop: StopRequest,
        listener: Listener,
        clock: Clock = time.monotonic,
        *,
        ended_by: str | None = None,
    ):
        self.limits, self.reached = carbon.limits, ""
        self.stop = BudgetStop(stop, self)
        self._carbon, self._listener, self._asked = carbon, listener, stop
        self._usage = Usage(folder, carbon.every_seconds, clock)
        self.saving = self._usage.saving
        self._has_gap = self._meters and self._usage.earlier.seconds > 0 and not is_measured(folder)
        self._warned: set[str] = set()
        # `_failing_since`: the time since which all readings of the meter have been bad; infinity: the latest reading is good.
        self._clock, self._failing_since = clock, math.inf
        self._problem = self._remedy = ""
        self._require(folder, ended_by)

    def start(self, meter: Meter) -> None:
        """Start counting the attempt, whose energy meter has just started."""
        self._usage.start(meter)
        if self._has_gap:
            self._listener.warn("an earlier attempt was not measured completely, so the budget of energy counts less than was used")

    def _require(self, folder: Path, ended_by: str | None) -> None:
        if self._usage.earlier != Amounts():
            return require_unspent(self._carbon, folder, self._usage.spent(), ended_by)
        for name, limit in self.limits.items():
            if (used := asdict(self._usage.siblings)[name]) >= limit:
                self._reach(name, used, limit)
                raise BudgetReached(f"{self._problem} by the other runs, so this one took no step", self.reached, self._remedy)

    @property
    def _meters(self) -> bool:
        return bool(self.limits.keys() & {"g", "kwh"})

    def should_end(self) -> bool:
        """Whether a stop was requested, or the latest `check` has found that a limit is reached."""
        return self._asked.should_stop() or bool(self.reached)

    def check(self, next_step: bool = False) -> bool:
        """Return whether a limit is reached or, with `next_step`, whether one more step and the end of the attempt would exceed a limit.

        Warn once when a limit is near, or when the meter has failed.
        """
        if self.reached or self._usage.meter is None:
            return bool(self.reached)
        spent = self._usage.spent_near(self.limits)
        for name, limit in self.limits.items():
            used = asdict(spent)[name]
            more = self._usage.per_step(name) + self._usage.to_end(name) - self._usage.per_reading(name)
            if used >= limit or (next_step and used + more > limit):
                self._reach(name, used, limit)
                break
            if used >= NEAR * limit:
                self._warn_once(f"near {name}", _used(name, used, limit))
        self._watch_meter()
        return bool(self.reached)

    def raise_if_reached(self, message: str) -> None:
        """Raise Stopped, with `message`, if a limit is reached."""
        if self.check():
            raise Stopped(message)

    def wait_for_meter(self) -> None:
        """For a limit of energy or grams, wait until the meter has started, since it counts no earlier steps. Raises Stopped."""
        while self._meters and (meter := self._usage.meter) is not None and meter.reading().status == "starting":
            self._asked.raise_if_requested("no step was taken")
            time.sleep(0.02)

    def begin_steps(self, left: int, planned: dict[str, float]) -> None:
        """Begin the `left` remaining steps, and warn if their estimated use, `planned`, and the use before them would exceed a limit."""
        self.wait_for_meter()
        began = asdict(self._usage.begin_steps())
        if not self.check() and left:
            self._forecast({name: began[name] + planned[name] for name in self.limits}, "by the plan of the run")

    def stepped(self, left: int) -> None:
        """Check the budget after a step, and warn if the `left` remaining steps are likely to exceed it."""
        if self._usage.began is None:
            return
        used = asdict(self._usage.stepped())
        # The energy of steps is known only if they took more than two intervals of the meter.
        is_known = not self._meters or self._usage.seconds_of_steps > 2 * self._carbon.every_seconds
        if not self.check(next_step=left > 0) and self._usage.steps >= SURE_STEPS and is_known:
            totals = {name: used[name] + left * self._usage.per_step(name) + self._usage.to_end(name) for name in self.limits}
            self._forecast(totals, "by the steps so far")

    def ending(self, stopped: Stopped) -> Stopped:
        """Return the error that ends the attempt: BudgetReached if the budget stopped it, else `stopped`."""
        if not self.reached or self._asked.should_stop():
            return stopped
        return BudgetReached(f"{self._problem}: {stopped}", self.reached, self._remedy)

    # ----------------------------------------------------------------------------------------------------- the parts of check

    def _reach(self, name: str, used: float, limit: float) -> None:
        self._problem = _used(name, used, limit)
        if used < limit:
            self._problem += f", and the next step would take some {format_amount(name, self._usage.per_step(name))}"
            if (ending := self._usage.to_end(name)) > 0:
                self._problem += f" and the end of the run {format_amount(name, ending)}"
        self.reached, self._remedy = _key(name), f"{_key(name)}={_larger(max(used, limit))}"

    def _watch_meter(self) -> None:
        """Warn if the meter of a budget of energy or grams has failed for SILENT_TICKS intervals; on_meter_failure=stop ends the run."""
        if not self._meters or (meter := self._usage.meter) is None:
            return
        self._failing_since = min(self._failing_since, self._clock()) if meter.reading().failing else math.inf
        if self._clock() - self._failing_since < SILENT_TICKS * min(self._carbon.every_seconds, LONGEST_TICK_SECONDS):
            return
        failed = "the carbon meter has failed, so the budget of energy cannot be kept"
        if self._carbon.on_meter_failure == "stop" and not self.reached:
            self._problem, self.reached = failed, "carbon.on_meter_failure"
            self._remedy = "carbon.on_meter_failure=warn"
        self._warn_once("failed", f"{failed}; what is used from now on is not counted")

    def _forecast(self, totals: dict[str, float], basis: str) -> None:
        for name, total in totals.items():
            limit = self.limits[name]
            if total > limit:
                self._warn_once(
                    f"forecast {name}",
                    f"{_key(name)}: {basis} the whole run takes some {format_amount(name, total)}, and the budget is "
                    f"{format_amount(name, limit)}; the run will stop there, and can continue with a larger budget",
                )

    def _warn_once(self, what: str, text: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            self._listener.warn(text)


@dataclass(frozen=True)
class BudgetStop:
    """A stop request that combines a budget with `asked`, another stop request, such as that of signals."""

    asked: StopRequest
    budget: Budget

    @property
    def requested(self) -> int | None:
        """The number of the signal by which the run was asked to stop; None if there was none."""
        number: int | None = getattr(self.asked, "requested", None)
        return number

    def should_stop(self) -> bool:
        """Whether the run should stop as soon as it can do so without a loss of work: after a stop request, or if a limit is reached."""
        return self.asked.should_stop() or self.budget.check()

    def raise_if_requested(self, message: str = "nothing was lost") -> None:
        """Raise Stopped if the run should stop."""
        self.asked.raise_if_requested(message)
        self.budget.raise_if_reached(message)

    @contextmanager
    def at_once(self, message: str = "nothing had to be saved") -> Iterator[None]:
        """Return a context in which a signal raises Stopped immediately; the budget is checked only before and after its block."""
        self.budget.raise_if_reached(message)
        try:
            with self.asked.at_once(message):
                yield
        except Exception as error:
            if self.budget.reached and not isinstance(error, Stopped):
                raise Stopped(message) from error  # a library has caught Stopped, and raised an exception of its own
            raise
        self.budget.raise_if_reached(message)


def _key(name: str) -> str:
    return f"carbon.budget_{name}"


def _used(name: str, used: float, limit: float) -> str:
    return f"{_key(name)}: {format_amount(name, used)} of {format_amount(name, limit)} are used"


def _larger(used: float) -> str:
    """Return a larger budget to suggest: twice `used`, rounded to two significant digits."""
    return f"{float(f'{2 * used:.1e}'):.12g}"
