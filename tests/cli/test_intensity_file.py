"""A recipe with intensities over time: refused before the run starts where they are none of its time, and of no harm afterwards."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from tiny_runs import pretrain, run_tfkit

METERED = "carbon.enabled=true"


def grid(base: Path, name: str, begin: float, minutes: float, rows: int = 3) -> Path:
    """A series from `begin` minutes from now on, with values of this many minutes."""
    times = [datetime.now(UTC) + timedelta(minutes=begin + minutes * row) for row in range(rows)]
    (base / name).write_text("timestamp_utc,g_per_kwh\n" + "".join(f"{time.isoformat()},{50 + row}\n" for row, time in enumerate(times)))
    return base / name


def test_a_series_of_another_time_is_refused_before_there_is_a_folder(base: Path) -> None:
    past, future = grid(base, "past.csv", -600, 10), grid(base, "future.csv", 5, 10)
    for path, code, words in ((past, 3, "but now it is"), (future, 3, "but now it is"), (base / "none.csv", 3, "cannot be read as csv")):
        done = pretrain(base / "refused", base / "tiny.yaml", f"carbon.intensity_file={path}").exits(code, words)
    assert not (base / "refused").exists()
    done = pretrain(base / "refused", base / "tiny.yaml", f"carbon.intensity_file={past}", "carbon.intensity_g_per_kwh=7").exits(2)
    assert "replaces intensity_g_per_kwh" in done.err
    assert "no such file" in run_tfkit(base, ["check", str(base / "tiny.yaml"), "carbon.intensity_file=none.csv"]).err.lower()


def test_a_run_that_cannot_end_within_its_series_is_refused_before_its_first_step(base: Path) -> None:
    short = grid(base, "short.csv", -0.5, 1, rows=2)
    done = pretrain(base / "long", base / "tiny.yaml", f"carbon.intensity_file={short}", "training.steps=100000000").exits(3)
    assert "short.csv: ends at" in done.err
    assert not [*(base / "long/checkpoints").glob("*")]


def test_what_was_a_series_of_the_run_is_none_of_a_later_command(base: Path) -> None:
    path = grid(base, "now.csv", -5, 10)
    pretrain(base / "run", base / "tiny.yaml", f"carbon.intensity_file={path}").exits(0)
    grid(base, "now.csv", -600, 10)
    assert run_tfkit(base, ["resume", str(base / "run")]).code == 0, "it is finished"
    scored = run_tfkit(base, ["evaluate", "--from", str(base / "run"), "evaluation.max_tokens=50", "--device", "cpu"]).exits(0)
    assert "now.csv: covers" in scored.err
    assert "This command is charged without the series" in scored.err
    assert run_tfkit(base, ["resume", str(base / "run"), "training.steps=14"]).code == 3
