"""Intensities over time: strict files, exact integrals, and a run during which the intensity changes."""

import os
import random
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_meter import start
from scripted_probe import G_PER_KWH, POWER_W
from tiny_files import read_rows, wait_for

from tfkit.carbon.footprint import Totals
from tfkit.carbon.intensity_series import IntensityCorrection, IntensitySeries, read_series, require_cover
from tfkit.carbon.place import resolve_place
from tfkit.carbon.totals import attempts_of, totals_of
from tfkit.errors import DataError
from tfkit.recipe.schema.carbon_section import CarbonSection

HEADER = "timestamp_utc,g_per_kwh"


def write(folder, *lines, header=HEADER):
    path = folder / "grid.csv"
    path.write_text("".join(line + "\n" for line in (header, *lines)), encoding="utf-8")
    return path


def test_a_series_is_read_in_utc(tmp_path):
    series = read_series(write(tmp_path, "2026-03-29T00:00:00Z,50", "2026-03-29T01:00:00+00:00,60.5", "2026-03-29 02:00,0"))
    start = datetime(2026, 3, 29, tzinfo=UTC).timestamp()
    assert series == IntensitySeries((start, start + 3600, start + 7200), (50.0, 60.5, 0.0), start + 3 * 3600)
    assert [series.at(start + hours * 3600) for hours in (-1, 0, 0.99, 1, 2.5, 9)] == [50.0, 50.0, 50.0, 60.5, 0.0, 0.0]


HOURS = ["2026-10-25T00:00:00Z,1", "2026-10-25T01:00:00Z,2", "2026-10-25T02:00:00Z,3"]


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        (HOURS, "time,g_per_kwh", r"grid\.csv:1: the first line has to be timestamp_utc,g_per_kwh"),
        (HOURS, "g_per_kwh,timestamp_utc", r":1: the first line"),
        (HOURS[:1], HEADER, r":2: a series needs at least two rows"),
        ([], HEADER, r":1: a series needs at least two rows"),
        ([HOURS[0], "2026-10-25T01:00:00Z"], HEADER, r":3: 1 fields; give a time and the grams"),
        ([HOURS[0], "noon,3"], HEADER, r":3: 'noon' is not a time; write it as 2026-"),
        ([HOURS[0], "2026-10-25T02:00:00+01:00,3"], HEADER, r":3: '2026-10-25T02:00:00\+01:00' is not in UTC"),
        ([HOURS[0], "2026-10-25T01:00:00Z,-1"], HEADER, r":3: '-1' is not a carbon intensity"),
        ([HOURS[0], "2026-10-25T01:00:00Z,nan"], HEADER, r":3: 'nan' is not a carbon intensity"),
        ([*HOURS, HOURS[2]], HEADER, r":5: 2026-10-25T02:00:00Z is not after the time of the row before; UTC never goes back"),
        ([*HOURS, "2026-10-25T04:00:00Z,3"], HEADER, r":5: 2026-10-25T04:00:00Z is 2:00:00 after the row before, where"),
    ],
)  # fmt: skip
def test_what_is_not_strictly_a_series_is_an_error_with_its_line(tmp_path, lines, header, message):
    with pytest.raises(DataError, match=message):
        read_series(write(tmp_path, *lines, header=header))


def test_what_is_no_csv_or_has_no_end_or_is_too_long_is_refused(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    with (tmp_path / "long").open("wb") as file:
        file.truncate(1 << 40)
    for path, reason in {
        "nowhere": r"\(No such file or directory\)",
        "bytes": "",
        **dict.fromkeys(("/dev/zero", "link", "pipe"), r"\(not a regular file"),
        ".": r"\(not a regular file|\(Is a directory",
        "long": r"\(larger than 16,777,216 bytes\)",
    }.items():
        with pytest.raises(DataError, match=f"{path.strip('.')}: cannot be read as csv ({reason})"):
            read_series(tmp_path / path)


@pytest.mark.parametrize("month", [3, 10])
def test_local_times_are_found_out_where_the_clocks_change(tmp_path, month):
    """Berlin's wall clock, without a zone, on the last Sunday of the month: an hour is missing, or occurs twice."""
    sunday = datetime(2026, month, 29 if month == 3 else 25, tzinfo=UTC)
    before, after = (timezone(timedelta(hours=hours)) for hours in ((1, 2) if month == 3 else (2, 1)))
    hours = [sunday + timedelta(hours=hour) for hour in range(-3, 5)]
    local = [hour.astimezone(before if hour < sunday + timedelta(hours=1) else after).replace(tzinfo=None) for hour in hours]
    with pytest.raises(DataError, match=r":\d+: .*(rows are missing, or the times are local ones|UTC never goes back)"):
        read_series(write(tmp_path, *(f"{time.isoformat()},50" for time in local)))
    assert len(read_series(write(tmp_path, *(f"{time.isoformat()},50" for time in hours))).times) == 8


def test_a_series_has_to_cover_the_run(tmp_path):
    path = write(tmp_path, *HOURS)
    series = read_series(path)
    require_cover(series, path, series.times[0], 3 * 3600)
    with pytest.raises(DataError, match=r"ends at 2026-10-25T03:00:00Z, but this run takes at least until 2026-10-25T03:00:01Z"):
        require_cover(series, path, series.times[0], 3 * 3600 + 1)
    with pytest.raises(DataError, match="takes at least until after the year 9999"):
        require_cover(series, path, series.times[0], 1e13)
    for moment in (series.times[0] - 1, series.end):
        with pytest.raises(DataError, match=r"covers 2026-10-25T00:00:00Z to 2026-10-25T03:00:00Z, but now it is"):
            require_cover(series, path, moment)
    with pytest.raises(DataError, match="but now it is"):
        resolve_place(CarbonSection(intensity_file=str(path)))


class Clock:
    """A clock, and what a meter has counted since it was set."""

    def __init__(self):
        self.now, self.seconds, self.energy = 100.0, 0.0, 0.0

    def __call__(self):
        return self.now

    def pass_by(self, took, watts):
        self.now, self.seconds, self.energy = self.now + took, self.seconds + took, self.energy + watts * took / 3600

    def totals(self, g_per_kwh):
        return Totals(self.seconds, self.energy, self.energy, 0.0, 0.0, self.energy * g_per_kwh / 1000)


VALUES = st.lists(st.floats(0, 900), min_size=2, max_size=8)
TICKS = st.lists(st.tuples(st.floats(0.1, 30), st.floats(1, 500)), min_size=1, max_size=12)


@settings(max_examples=50, deadline=None)
@given(VALUES, TICKS, st.floats(1, 40), st.floats(0, 1e6))
def test_the_integral_is_that_of_many_small_steps(values, ticks, interval, offset):
    times = tuple(100.0 + offset + index * interval for index in range(len(values)))
    series = IntensitySeries(times, tuple(values), times[-1] + interval)
    clock, expected = Clock(), 0.0
    fields = {"times": series.times, "g_per_kwh": series.g_per_kwh, "end": series.end}
    correction = IntensityCorrection(fields, values[0], offset, clock)
    for took, watts in ticks:
        for step in range(200):
            expected += watts * took / 200 / 3600 * series.at(clock.now + took * (step + 0.5) / 200 + offset) / 1000
        clock.pass_by(took, watts)
        found = correction.correct(clock.totals(values[0]))
    slack = 1e-9 + sum(watts * took / 200 / 3600 for took, watts in ticks) * 0.9 * len(values)
    assert found.emissions_g == pytest.approx(expected, abs=slack)
    assert correction.is_past_end == (clock.now + offset > series.end)


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 900), TICKS)
def test_a_constant_series_gives_the_bits_of_the_plain_formula(value, ticks):
    series = {"times": tuple(float(index) for index in range(300)), "g_per_kwh": (value,) * 300, "end": 300.0}
    clock = Clock()
    correction = IntensityCorrection(series, value, random.random(), clock)
    for took, watts in ticks:
        clock.pass_by(took, watts)
        assert correction.correct(clock.totals(value)) == clock.totals(value)


def metered(folder, *values, begin, every):
    """Start a meter at these intensities, each for so many seconds from `begin` on."""
    lines = [f"{datetime.fromtimestamp(begin + every * index, UTC).isoformat()},{value}" for index, value in enumerate(values)]
    return start(folder, section=CarbonSection(intensity_file=str(write(folder, *lines)), every_seconds=0.5))


def test_a_meter_charges_what_was_used_when(tmp_path):
    """The series has the probe's 100 g/kWh for two seconds, then 500 g/kWh; it ends a second later, and the last value applies."""
    begin = time.time()
    meter = metered(tmp_path, G_PER_KWH, 500, begin=begin - 8, every=10)
    wait_for(lambda: meter.reading().status == "ok")
    time.sleep(max(0.0, begin + 3.0 - time.time()))
    final = meter.stop()
    assert final.place.startswith("100 g/kWh (now, by carbon.intensity_file)")
    (attempt,) = attempts_of(tmp_path)
    found = totals_of([attempt], final.seconds).intensity
    late = final.seconds - 2.0
    assert final.emissions_g == pytest.approx(POWER_W / 3.6e6 * (2.0 * G_PER_KWH + late * 500), rel=0.15)
    assert found.g_per_kwh == pytest.approx(final.emissions_g / final.energy_wh * 1000)
    assert G_PER_KWH < found.mean_g_per_kwh < 500
    assert found.emissions_g_at_mean == pytest.approx(final.energy_wh * found.mean_g_per_kwh / 1000)
    assert (found.kind, found.source, found.beyond_series) == ("series", "grid.csv", False)


def test_the_end_of_a_series_is_a_warning_and_a_mark_in_the_ledger(tmp_path):
    meter = metered(tmp_path, G_PER_KWH, G_PER_KWH, begin=time.time() - 1.2, every=1)
    warnings: list[str | None] = []
    wait_for(lambda: warnings.append(meter.warning()) or warnings[-1])
    assert warnings[-1] == "carbon.intensity_file has ended; its last value is used from now on, and the ledger records this"
    final = meter.stop()
    assert final.emissions_g == pytest.approx(final.energy_wh * G_PER_KWH / 1000)
    assert totals_of(attempts_of(tmp_path), final.seconds).intensity.beyond_series is True
    assert any(tick.get("beyond_series") for tick in read_rows(tmp_path / "carbon/0-1.jsonl"))
