"""A carbon intensity that changes with time: a csv of `timestamp_utc,g_per_kwh`.

The energy between two readings of CodeCarbon is multiplied by the mean intensity in this time. The value of a row applies from the row's
time to the time of the next row; the last value applies for an interval of the same length. Times are in UTC and equally spaced: in local
time, an hour would occur twice or be missing when the clocks change.
"""

import csv
import io
import math
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

from tfkit.carbon.footprint import Totals
from tfkit.errors import DataError, TfkitError, reason_of
from tfkit.regular_files import read_limited

COLUMNS = ["timestamp_utc", "g_per_kwh"]
MOST_G_PER_KWH = 100_000.0  # also the limit of the recipe's field carbon.intensity_g_per_kwh
_MOST_BYTES = 16 << 20  # about five years of values, one every five minutes
_EXAMPLE = "2026-11-26T17:00:00Z"


@dataclass(frozen=True)
class IntensitySeries:
    """A series of carbon intensities. g_per_kwh[i] applies from times[i] (seconds since 1970) to times[i + 1], the last to `end`."""

    times: tuple[float, ...]
    g_per_kwh: tuple[float, ...]
    end: float

    def at(self, moment: float) -> float:
        """Return the value at a moment; for a moment before the series, the first value; for one after it, the last."""
        return self.g_per_kwh[max(0, bisect_right(self.times, moment) - 1)]

    def mean(self, begin: float, end: float) -> float:
        """Return the mean of the intensity over the time from `begin` to `end`. If all values are equal, it is exact."""
        first, last = max(0, bisect_right(self.times, begin) - 1), max(0, bisect_right(self.times, end) - 1)
        values = self.g_per_kwh[first : last + 1]
        if end <= begin or len({*values}) == 1:
            return values[-1]
        bounds = [begin, *self.times[first + 1 : last + 1], end]
        parts = [value * (after - before) for value, before, after in zip(values, bounds, bounds[1:], strict=False)]
        return math.fsum(parts) / (end - begin)


def read_series(path: Path) -> IntensitySeries:
    """Read a series from a csv. Raises DataError, with file and line, for any line that does not follow the format."""
    try:
        lines = io.StringIO(read_limited(path, _MOST_BYTES).decode("utf-8-sig"), newline="")
        rows = [(number, row) for number, row in enumerate(csv.reader(lines, strict=True), 1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as csv ({reason_of(error)}); give a file with the columns {','.join(COLUMNS)}") from error
    if not rows or rows[0][1] != COLUMNS:
        raise DataError(f"{path}:1: the first line has to be {','.join(COLUMNS)}")
    if len(rows) < 3:
        raise DataError(f"{path}:{rows[-1][0]}: a series needs at least two rows: the next row shows how long a value applies")
    times, values = [], []
    for number, row in rows[1:]:
        if len(row) != len(COLUMNS):
            raise DataError(f"{path}:{number}: {len(row)} fields; give a time and the grams of CO2e per kWh")
        times.append(_time(row[0], f"{path}:{number}"))
        values.append(parse_intensity(row[1], f"{path}:{number}"))
    interval = times[1] - times[0]
    for (number, row), before, time in zip(rows[2:], times, times[1:], strict=False):
        if time <= before:
            raise DataError(f"{path}:{number}: {row[0]} is not after the time of the row before; UTC never goes back, as a local time does")
        if not math.isclose(time - before, interval, abs_tol=1.0):
            raise DataError(
                f"{path}:{number}: {row[0]} is {timedelta(seconds=time - before)} after the row before, where the first two are "
                f"{timedelta(seconds=interval)} apart: rows are missing, or the times are local ones"
            )
    return IntensitySeries(tuple(times), tuple(values), times[-1] + interval)


def require_cover(series: IntensitySeries, path: Path, begin: float, seconds: float = 0.0) -> None:
    """Raise DataError unless the series covers the moment `begin` and the `seconds` after it."""
    begins, ends = (_text(moment) for moment in (series.times[0], series.end))
    if begin < series.times[0] or begin >= series.end:
        raise DataError(f"{path}: covers {begins} to {ends}, but now it is {_text(begin)}; give a series that covers the time of the run")
    if begin + seconds > series.end:
        raise DataError(
            f"{path}: ends at {ends}, but this run takes at least until {_text(begin + seconds)}; give a longer series, or use "
            "carbon.country or carbon.intensity_g_per_kwh"
        )


def _time(text: str, where: str) -> float:
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise DataError(f"{where}: {text!r} is not a time; write it as {_EXAMPLE}") from None
    if time.tzinfo is not None and time.utcoffset() != timedelta(0):
        raise DataError(f"{where}: {text!r} is not in UTC; write it as {_EXAMPLE}")
    return time.replace(tzinfo=UTC).timestamp()


def parse_intensity(value: Any, where: str, error: type[TfkitError] = DataError) -> float:
    """Return a carbon intensity in g/kWh. Raises `error`, beginning with `where`, unless `value` is a number from 0 to MOST_G_PER_KWH."""
    with suppress(ValueError):
        if 0 <= (grams := float(value)) <= MOST_G_PER_KWH:
            return grams
    raise error(f"{where}: {value!r} is not a carbon intensity; give the grams of CO2e per kWh, such as 56")


def _text(moment: float) -> str:
    if moment >= datetime.max.replace(tzinfo=UTC).timestamp():  # the forecast end of a run that is far too large for this machine
        return "after the year 9999"
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class IntensityCorrection:
    """Corrects CodeCarbon's emissions, which assume a constant intensity, so that they follow a series of intensities.

    If all values of the series equal the constant, the emissions are unchanged to the last bit. `series`: the fields of an IntensitySeries;
    None: nothing is corrected. `g_per_kwh`: the constant. `offset`: the wall clock minus the monotonic clock at the attempt's start. Times
    are the monotonic clock plus `offset`, so that setting the wall clock during the run has no effect.
    """

    def __init__(self, series: dict[str, Any] | None, g_per_kwh: float, offset: float, clock: Callable[[], float] = monotonic):
        self._series = IntensitySeries(tuple(series["times"]), tuple(series["g_per_kwh"]), series["end"]) if series else None
        self._g_per_kwh, self._offset, self._clock = g_per_kwh, offset, clock
        self._energy_wh = self._correction_g = 0.0
        self._corrected_until: float | None = None
        self._intensity_seconds = self._seconds = 0.0  # since the last tick: the sum of intensity times seconds, and of the seconds
        self.is_past_end = False  # whether a reading was after the end of the series

    def correct(self, totals: Totals) -> Totals:
        """Return the totals of a reading that was just taken, with its emissions corrected."""
        if self._series is not None and totals.energy_wh > self._energy_wh:
            now = self._clock()
            begin = self._corrected_until if self._corrected_until is not None else now - totals.measured_seconds
            mean = self._series.mean(begin + self._offset, now + self._offset)
            self._correction_g += (totals.energy_wh - self._energy_wh) / 1000 * (mean - self._g_per_kwh)
            self._intensity_seconds += mean * (now - begin)
            self._seconds += now - begin
            self._energy_wh, self._corrected_until = totals.energy_wh, now
            self.is_past_end = now + self._offset > self._series.end
        return replace(totals, emissions_g=max(0.0, totals.emissions_g + self._correction_g)) if self._correction_g else totals

    def take_fields(self) -> dict[str, Any]:
        """Return more fields for a tick, the ledger's line on a reading: the mean intensity since the previous call, the seconds that
        this mean covers, and `beyond_series` if the series has ended; {} without a series.
        """
        if self._series is None:
            return {}
        mean = self._intensity_seconds / self._seconds if self._seconds else self._g_per_kwh
        fields = {"g_per_kwh": mean, "g_per_kwh_seconds": self._seconds} | ({"beyond_series": True} if self.is_past_end else {})
        self._intensity_seconds = self._seconds = 0.0
        return fields
