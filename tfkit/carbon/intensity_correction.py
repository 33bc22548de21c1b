"""The emissions under a carbon intensity that changes with time: the energy of each reading is multiplied by the mean of its interval."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tfkit.carbon.intensity_series import IntensitySeries
from tfkit.carbon.reading import Totals


class IntensityCorrection:
    """Corrects the emissions of the probe, computed with a constant intensity, to those of a series of intensities.

    A series whose values equal the constant changes nothing, to the last bit. `series`: the fields of an IntensitySeries, or None;
    `g_per_kwh`: the constant; `offset`: the wall clock minus the monotonic clock at the start, so that setting the clock has no effect.
    """

    def __init__(self, series: dict[str, Any] | None, g_per_kwh: float, offset: float, clock: Callable[[], float] = time.monotonic):
        self._series = IntensitySeries(tuple(series["times"]), tuple(series["g_per_kwh"]), series["end"]) if series else None
        self._g_per_kwh, self._offset, self._clock = g_per_kwh, offset, clock
        self._energy_wh = self._correction_g = 0.0
        self._corrected_until: float | None = None
        self._intensity_seconds = self._seconds = 0.0  # since the last tick: g/kWh x s, and s
        self.is_past_end = False  # of the series

    def correct(self, totals: Totals) -> Totals:
        """Return the totals of a reading that was just taken, with the emissions according to the series."""
        if self._series is not None and totals.energy_wh > self._energy_wh:
            now = self._clock()
            begin = self._corrected_until if self._corrected_until is not None else now - totals.measured_seconds
            mean = self._series.mean(begin + self._offset, now + self._offset)
            self._correction_g += (totals.energy_wh - self._energy_wh) / 1000 * (mean.g_per_kwh - self._g_per_kwh)
            self._intensity_seconds += mean.g_per_kwh * (now - begin)
            self._seconds += now - begin
            self._energy_wh, self._corrected_until, self.is_past_end = totals.energy_wh, now, mean.beyond
        return replace(totals, emissions_g=max(0.0, totals.emissions_g + self._correction_g)) if self._correction_g else totals

    def take_fields(self) -> dict[str, Any]:
        """Return the fields of the next tick: the mean intensity since the previous tick, and its seconds; none without a series."""
        if self._series is None:
            return {}
        mean = self._intensity_seconds / self._seconds if self._seconds else self._g_per_kwh
        fields = {"g_per_kwh": mean, "g_per_kwh_seconds": self._seconds} | ({"beyond_series": True} if self.is_past_end else {})
        self._intensity_seconds = self._seconds = 0.0
        return fields
