from importlib import metadata
from pathlib import Path

import pytest
import torch
from tiny_runs import run_here

from tfkit import __version__
from tfkit.cli.env import text
from tfkit.engine.planning.forecast_history import PastRun, remember
from tfkit.engine.planning.machine_speed import device_name
from tfkit.engine.tools.environment import LIBRARIES
from tfkit.run.machine import version


def test_env_as_json_and_for_people_one_thing_a_line() -> None:
    document = run_here(["env", "--json"]).exits(0).document
    versions, processor = document["versions"], document["processor"]
    assert (document["tfkit"], versions["torch"], document["devices"][0]) == (__version__, metadata.version("torch"), "cpu")
    assert versions.keys() == set(LIBRARIES)
    assert processor["name"]
    assert processor["bf16"] in (True, False, None)
    assert (document["threads"] >= 1, document["cache"]["bytes"] >= 0) == (True, True)
    done = run_here(["env"]).exits(0)
    parts = ["tfkit", "python", *LIBRARIES, "processor", "threads", "devices", "cache", "forecasts"]
    assert ([line.split()[0] for line in done.out.splitlines()], done.err) == (parts, "")


def test_a_cache_that_cannot_be_used_is_part_of_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path / "file"))
    cache = run_here(["env", "--json"]).exits(0).document["cache"]
    assert (cache["folder"], cache["bytes"]) == (None, None)
    assert str(tmp_path / "file") in cache["error"]


def test_the_runs_of_a_gpu_count_among_the_forecasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    remember(PastRun(device_name(torch.device("cuda")), 1, "causal_lm", 12, 1.0, 3.0, 2.0))
    found = run_here(["env", "--json"]).exits(0).document
    assert found["devices"] == ["cpu", "cuda:0 NVIDIA H100"]
    assert (found["forecasts"]["runs"], found["forecasts"]["median_error_seconds"]) == (1, 0.5)


def test_what_is_missing_is_said() -> None:
    assert version("no-such-distribution-of-ours") is None
    missing = {
        "versions": {"torch": None},
        "processor": {"name": "x", "bf16": None},
        "devices": [],
        "cache": {"folder": None, "bytes": None, "error": "cannot be written"},
        "forecasts": {"file": None, "machine": "x", "runs": 0, "median_error_seconds": None, "median_error_energy_kwh": None},
    }
    shown = text(run_here(["env", "--json"]).document | missing)
    for words in ("not installed", "bf16 unknown", "none: torch", "cannot be written", "none yet"):
        assert words in shown
