"""Sum the energy, emissions and time that count against a budget: those of a run and its siblings.

Siblings are the other stages of its recipe or trials of its sweep. All attempts (start and resumptions) of each run count.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tfkit.carbon import Meter, Reading, read_seconds, read_totals
from tfkit.run.run_json import member_folders, read_run_json

Clock = Callable[[], float]  # returns seconds, as time.monotonic does
REFRESH_SECONDS = 0.25  # the least time between two fresh readings of the meter near a limit
REFRESH_TIMEOUT_SECONDS = 1.0  # the longest wait for such a reading


@dataclass(frozen=True)
class Amounts:
    """Amounts used: grams of CO2e, kilowatt-hours and wall seconds."""

    g: float = 0.0
    kwh: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(self.g + other.g, self.kwh + other.kwh, self.seconds + other.seconds)

    @classmethod
    def of(cls, reading: Reading, seconds: float) -> "Amounts":
        """Combine the energy and emissions of a meter's reading with the seconds of a run."""
        return cls(reading.emissions_g, reading.energy_wh / 1000, seconds)


class Usage:
    """The amounts that the run in `folder` and its sibling stages or trials have used, extrapolated from the meter's last reading.

    `every_seconds`: the time between two readings of the meter.
    """

    def __init__(self, folder: Path, every_seconds: float, clock: Clock):
        self._every, self._clock = every_seconds, clock
        self.earlier, self.siblings = spent_in(folder), spent_by_siblings(folder)
        self.meter: Meter | None = None
        self.began: Amounts | None = None  # what was used before the first step of this attempt
        self.steps = 0  # number of steps of this attempt so far
        self._started, self._refreshed, self._after_step, self._longest_save = 0.0, -math.inf, Amounts(), 0.0

    def start(self, meter: Meter) -> None:
        """Start counting the attempt, whose energy meter has just started."""
        self.meter, self._started = meter, self._clock()

    def spent(self) -> Amounts:
        """Return the amounts that the run and its siblings have used until now."""
        if self.meter is None:
            return self.earlier + self.siblings
        return Amounts.of(self.meter.extrapolated_reading(), self.earlier.seconds + self._clock() - self._started) + self.siblings

    def spent_near(self, limits: Mapping[str, float]) -> Amounts:
        """Return `spent()`. Within about a step of a limit of energy or grams, read the meter first, at most every REFRESH_SECONDS."""
        assert self.meter is not None
        spent = self.spent()
        near = any(asdict(spent)[name] + self.per_step(name) >= 0.98 * limit for name, limit in limits.items() if name != "seconds")
        if not near or self._clock() - self._refreshed < REFRESH_SECONDS:
            return spent
        self._refreshed = self._clock()
        self.meter.fresh_reading(REFRESH_TIMEOUT_SECONDS)
        return self.spent()

    def begin_steps(self) -> Amounts:
        """Begin the steps of this attempt; return what was used before them."""
        self.began = self.spent()
        return self.began

    def stepped(self) -> Amounts:
        """Count a step; return what was used until now."""
        self.steps, self._after_step = self.steps + 1, self.spent()
        return self._after_step

    def per_step(self, name: str) -> float:
        """Return how much of the amount `name` a step of this attempt has used on average; 0 before the first step."""
        if self.began is None or not self.steps:
            return 0.0
        used: float = asdict(self._after_step)[name] - asdict(self.began)[name]
        return max(0.0, used) / self.steps

    @property
    def seconds_of_steps(self) -> float:
        """The wall time, in seconds, of this attempt's steps so far."""
        return 0.0 if self.began is None else self._after_step.seconds - self.began.seconds

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Time a save. The longest save so far is the estimate for the last save of the attempt."""
        began = self._clock()
        yield
        self._longest_save = max(self._longest_save, self._clock() - began)

    def to_end(self, name: str) -> float:
        """Return the seconds that the attempt will take after its last step: those of the longest save so far and of the meter's stop.

        For energy and grams, return 0: such a budget may be exceeded by the use between two readings anyway, and the end uses less.
        """
        assert self.meter is not None
        return self._longest_save + self.meter.seconds_to_stop if name == "seconds" else 0.0

    def per_reading(self, name: str) -> float:
        """Return how much of the amount `name` is used between two readings of the meter; 0 for the time, which needs no reading."""
        if name == "seconds":
            return 0.0
        assert self.meter is not None
        reading = self.meter.reading()
        kwh = reading.power_w * self._every / 3.6e6
        return kwh if name == "kwh" else kwh * (reading.emissions_g / reading.energy_wh * 1000 if reading.energy_wh else 0.0)


def spent_in(folder: Path) -> Amounts:
    """Return what all attempts of a run, or all stages or trials in a folder, have used; zeros for a folder without a run."""
    if members := member_folders(folder):
        return sum((spent_in(member) for member in members.values()), Amounts())
    with suppress(OSError, ValueError):
        run = read_run_json(folder)
        return Amounts.of(read_totals(folder, run.run_id), run.seconds(read_seconds(folder, run.run_id)))
    return Amounts()


def spent_by_siblings(folder: Path) -> Amounts:
    """Return what the other stages of the recipe or trials of the sweep have used; for a stage of a trial, the sum of both."""
    folder = folder.resolve()
    members = {member.resolve() for member in member_folders(folder.parent).values()}
    if folder not in members:
        return Amounts()
    return sum((spent_in(member) for member in members - {folder}), spent_by_siblings(folder.parent))


def is_measured(folder: Path) -> bool:
    """Whether the energy of all attempts of a run was measured completely."""
    with suppress(OSError):
        return read_totals(folder).status == "ok"
    return False
