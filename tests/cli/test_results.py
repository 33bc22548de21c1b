"""The last lines of a training: which checkpoint they describe, and baselines in words; the tables of each class, for any names."""

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import run_here

from tfkit import __version__, console
from tfkit.cli.env import text
from tfkit.cli.evaluate import class_tables
from tfkit.cli.results import _lines, beside_baseline
from tfkit.engine.planning.forecast_history import PastRun, remember
from tfkit.engine.planning.machine_speed import device_name
from tfkit.engine.tools.environment import LIBRARIES
from tfkit.run.machine import version

RESULT: dict[str, Any] = {"checkpoint": "r/checkpoints/step-000045", "steps": 133, "tokens": 10_600, "seconds": 12.0, "loss": 0.696}
RESULT |= {"evaluation": {"loss": 0.6978, "accuracy": 0.4255}, "before": {"loss": 0.6909, "accuracy": 0.5957}}
RESULT |= {"energy_kwh": None, "emissions_g": None, "inherited_g": None, "inherited_is_lower_bound": False}
RESULT |= {"baselines": {"most_frequent_class": {"accuracy": 0.4255}}}


@pytest.mark.parametrize(
    ("best", "shown"), [(45, ["best        step 45, the checkpoint that --from RUN takes", "accuracy 0.4255, at the last step"]), (133, [])]
)
def test_the_lines_say_which_checkpoint_they_describe(best: int, shown: list[str]) -> None:
    text = _lines(RESULT | {"best": {"step": best, "metric": "accuracy", "value": 0.5745}})
    assert "loss        0.6960 on training rows" in text
    assert all(one in text for one in shown)
    assert ("at the last step" in text) == bool(shown)


@pytest.mark.parametrize("status", ["ok", "degraded"])
def test_an_energy_that_is_a_lower_bound_is_called_one(status: str) -> None:
    """Its power is unknown, since the seconds include those that were not measured."""
    energy = {"energy_kwh": 1e-3, "energy_kwh_low": 5e-4, "energy_kwh_high": 2e-3, "emissions_g": 0.475, "provenance": {"ram": "constant"}}
    lines = _lines(RESULT | energy | {"carbon_status": status}).splitlines()
    (amount, measured) = (line.partition(" ")[2].strip() for line in lines if line.startswith(("energy ", "measured ")))
    assert amount == ("at least " if status == "degraded" else "") + "1 Wh, 475 mg CO2e"
    assert measured.startswith("in part (RAM constant), " if status == "degraded" else "300 W (RAM constant), ")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("most_frequent_class", "always answering the most frequent class"),
        ("most_frequent_tag", "always answering the most frequent tag"),
        ("most_frequent_tag_of_word", "each word's most frequent tag"),
        ("mean", "always answering the mean of the training rows"),
        ("naive_bayes", "naive bayes"),
    ],
)
def test_a_baseline_is_named_by_what_it_does(name: str, words: str) -> None:
    best = {"name": name, "metric": "rmse" if name == "mean" else "f1", "value": 0.5, "score": 0.2}
    assert f" {words}: 0.5" in beside_baseline({"best_baseline": best, "beats_baseline": int(name == "mean")})


# -- tables of each class


def result(names: list[str], confused: int = 3) -> dict[str, object]:
    """Every class is taken for the next one, the first most often."""
    confusion = {name: {name: 10, names[(i + 1) % len(names)]: confused + len(names) - i} for i, name in enumerate(names)}
    classes = {name: {"precision": 0.5, "recall": 0.25, "f1": (i + 1) / 1000, "support": 1234} for i, name in enumerate(names)}
    return {"classes": classes, "confusion": confusion}


def test_few_classes_have_a_matrix() -> None:
    assert class_tables(result(["yes", "no"])).split("\n\n")[1:] == [
        "class  precision  recall      f1  support\nyes       0.5000  0.2500  0.0010    1,234\nno        0.5000  0.2500  0.0020    1,234",
        "label \\ predicted  yes  no\nyes                 10   5\nno                   4  10",
    ]


def test_of_many_classes_the_worst_and_the_most_confused() -> None:
    _, figures, pairs = class_tables(result([f"class {number}" for number in range(21)])).split("\n\n")
    assert figures.splitlines()[0].split("  ")[0] == "class, lowest F1 of 21"
    assert [line[:8].strip() for line in figures.splitlines()[1:]] == [f"class {number}" for number in range(10)]
    assert pairs.splitlines()[0].split() == ["most", "confused", "predicted", "number"]
    assert pairs.splitlines()[1].split() == ["class", "0", "class", "1", "24"]
    assert len(pairs.splitlines()) == 11


def test_a_matrix_is_no_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long names are cut, wide characters count two; where nothing is confused no pairs are shown."""
    names = ["a very long name of a class, indeed too long", "漢字" * 20, "line\nend"]
    _, figures, matrix = class_tables(result(names)).split("\n\n")
    assert [line.partition("  ")[0] for line in figures.splitlines()[1:]] == [
        "a very long name of a class, ...",
        "漢字漢字漢字漢字漢字漢字漢字...",
        "line end",
    ]
    assert matrix.startswith("most confused")  # the matrix has 101 columns
    monkeypatch.setattr(console, "result_columns", lambda: 120)
    wide = class_tables(result(names)).split("\n\n")[2]
    assert wide.startswith("label \\ predicted")
    assert len({*map(console.columns_of, wide.splitlines())}) == 1
    right = {"classes": result(names)["classes"], "confusion": {name: {name: 3} for name in names}}
    monkeypatch.setattr(console, "result_columns", lambda: 70)
    assert class_tables(right).count("\n\n") == 1
    assert class_tables({}) == ""


# -- tfkit env


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
