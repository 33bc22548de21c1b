"""The emissions of an attempt by intensities that change with time: each reading's energy is charged at the mean of its interval."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tfkit.carbon.intensity_series import IntensitySeries
from tfkit.carbon.reading import Totals


class Integral:
    """Changes the emissions of the probe, which are at one intensity, by what the energy of each interval has more or less.

    So a series of equal values changes nothing, to the last bit. `series`: the fields of an IntensitySeries, or None; `g_per_kwh`: that of
    the probe; `offset`: of the wall clock from the monotonic one, at the start, so that a clock that is set does not matter.
    """

    def __init__(self, series: dict[str, Any] | None, g_per_kwh: float, offset: float, clock: Callable[[], float] = time.monotonic):
        self._series = IntensitySeries(tuple(series["times"]), tuple(series["g_per_kwh"]), series["end"]) if series else None
        self._g_per_kwh, self._offset, self._clock = g_per_kwh, offset, clock
        self._energy_wh = self._more_g = 0.0
        self._until: float | None = None
        self._grams_seconds = self._seconds = 0.0  # since the last line of the ledger
        self.is_beyond = False  # the series has ended

    def charge(self, totals: Totals) -> Totals:
        """Return the totals of a reading that was just taken, with the emissions by the series."""
        if self._series is None or totals.energy_wh <= self._energy_wh:
            return replace(totals, emissions_g=max(0.0, totals.emissions_g + self._more_g)) if self._more_g else totals
        now = self._clock()
        begin = self._until if self._until is not None else now - totals.measured_seconds
        mean = self._series.mean(begin + self._offset, now + self._offset)
        self._more_g += (totals.energy_wh - self._energy_wh) / 1000 * (mean.g_per_kwh - self._g_per_kwh)
        self._grams_seconds, self._seconds = self._grams_seconds + mean.g_per_kwh * (now - begin), self._seconds + now - begin
        self._energy_wh, self._until, self.is_beyond = totals.energy_wh, now, mean.beyond
        return replace(totals, emissions_g=max(0.0, totals.emissions_g + self._more_g)) if self._more_g else totals

    def take_fields(self) -> dict[str, Any]:
        """Return the fields of the next tick: the mean intensity since the one before, and for how long; none without a series."""
        if self._series is None:
            return {}
        mean = self._grams_seconds / self._seconds if self._seconds else self._g_per_kwh
        fields = {"g_per_kwh": mean, "g_per_kwh_seconds": self._seconds} | ({"beyond_series": True} if self.is_beyond else {})
        self._grams_seconds = self._seconds = 0.0
        return fields
