"""The trackers themselves, where they are installed: each has exactly the points of metrics.jsonl, once, also of a run that was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_trackers import logged
from tiny_files import receipt

READERS = {
    "wandb": """
from tfkit.engine.training_run.tracker_adapters import offline_records
for path in Path("wandb").glob("offline-run-*/*.wandb"):
    for record in offline_records(path):
        if record.HasField("history"):
            row = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
            points += [(name, row["_step"], value) for name, value in row.items() if not name.startswith("_")]
        for item in record.summary.update:
            if item.nested_key[:1] == ["totals/energy_kwh"] or item.key == "totals/energy_kwh":
                totals = json.loads(item.value_json)
        for item in record.run.config.update:
            if item.key == "optimizer":
                lr = json.loads(item.value_json)["lr"]
""",
    "mlflow": """
from mlflow import MlflowClient
client = MlflowClient()
(run,) = client.search_runs([client.get_experiment_by_name("demo").experiment_id])
points = [(name, one.step, one.value) for name in run.data.metrics for one in client.get_metric_history(run.info.run_id, name)]
totals, lr = float(run.data.tags.get("totals/energy_kwh", "nan")), float(run.data.params["optimizer.lr"])
""",
    "trackio": """
import trackio
from trackio.sqlite_storage import SQLiteStorage
(run,) = trackio.Api().runs("demo")
for row in SQLiteStorage.get_logs("demo", run.name):
    points += [(name, row["step"], value) for name, value in row.items() if name not in ("step", "timestamp")]
(totals,), lr = [value for name, _, value in points if name == "totals/energy_kwh"] or [None], run.config["optimizer"]["lr"]
points = [point for point in points if not point[0].startswith("totals/")]
""",
    "aim": """
import aim
repo = aim.Repo.from_path(".")
(found,) = repo.list_all_runs()
run = aim.Run(found, repo=repo, system_tracking_interval=None, capture_terminal_logs=False)
for metric in run.metrics():
    steps, (values, *_) = metric.data.items_list()
    points += [(metric.name, step, value) for step, value in zip(steps, values)]
totals, lr = run["totals"].get("energy_kwh"), run["recipe", "optimizer", "lr"]
""",
    "tensorboard": """
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = EventAccumulator(sys.argv[1] + "/tensorboard", size_guidance={"scalars": 0}).Reload()
points = [(name, event.step, event.value) for name in found.Tags()["scalars"] for event in found.Scalars(name)]
totals = lr = None
""",
}
KINDS = ["wandb", "mlflow", "trackio", "aim", "tensorboard"]
EVERY = ("training.log_every=1", "training.steps=40", "checkpoint={every: 10, keep: 5}", "evaluation={every: 10, max_tokens: 300}")
SLOWLY = "import sys; sys.path.insert(0, sys.argv.pop(1)); import tiny_runs; tiny_runs.slow_micro_batches({}); sys.exit(tiny_runs.main())"
pytestmark = pytest.mark.slow


def environment(folder: Path) -> dict[str, str]:
    local = {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "TRACKIO_DIR": str(folder / "trackio")}
    silent = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false", "HF_HUB_OFFLINE": "1"}
    return os.environ | local | silent


def start(folder: Path, *words: str, seconds: float = 0.0) -> "subprocess.Popen[str]":
    """Start tfkit, whose steps take so much longer."""
    command = [sys.executable, "-c", SLOWLY.format(seconds), str(Path(__file__).parents[1]), *words]
    return subprocess.Popen(command, cwd=folder, env=environment(folder), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def tfkit(folder: Path, *words: str, seconds: float = 0.0) -> tuple[str, str]:
    process = start(folder, *words, seconds=seconds)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out, err


def read_back(kind: str, folder: Path) -> tuple[dict[tuple[str, int], list[float]], float | None, float | None]:
    """Return the values of each name and step that a tracker has, the total energy, and the learning rate of the recipe."""
    code = "import json, sys\nfrom pathlib import Path\npoints, totals, lr = [], None, None\n" + READERS[kind]
    code += "\nprint('\\n' + json.dumps([points, totals, lr]))"
    done = subprocess.run([sys.executable, "-c", code, "run"], cwd=folder, env=environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    points, totals, lr = json.loads(done.stdout.splitlines()[-1])
    found: dict[tuple[str, int], list[float]] = {}
    for name, step, value in points:
        found.setdefault((name, step), []).append(value)
    return found, totals, lr


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return str(request.param)


@pytest.fixture
def recipe(base: Path) -> str:
    return str(base / "tiny.yaml")


def test_a_run_is_sent_afterwards_once_and_exactly(kind: str, recipe: str, tmp_path: Path) -> None:
    tfkit(tmp_path, "pretrain", recipe, "--run", "run", "training.log_every=1")
    document = receipt(tmp_path / "run")
    document["totals"]["energy_kwh"] = 0.0123  # too short a run has none
    (tmp_path / "run" / "run.json").write_text(json.dumps(document), encoding="utf-8")
    sent = []
    for _ in range(2):
        out, _ = tfkit(tmp_path, "track", "run", "--to", kind, "--project", "demo", "--json")
        (result,) = json.loads(out)["runs"]
        sent.append((result["points"], result["known"]))
        expected: Callable[[float], float] = (lambda value: float(np.float32(value))) if kind == "tensorboard" else float
        points, totals, lr = read_back(kind, tmp_path)
        assert points == {(name, step): [expected(value)] for name, step, value in logged(tmp_path / "run")}
        if kind != "tensorboard":
            assert (totals, lr) == (0.0123, 1e-3)
    count = len(logged(tmp_path / "run"))
    assert sent == [(count, 0), (count, 0) if kind == "aim" else (0, count)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_resumed_goes_on_in_the_same_run(kind: str, recipe: str, tmp_path: Path, number: int) -> None:
    tracker = f"trackers=[{{kind: {kind}{', project: demo' if kind != 'tensorboard' else ''}}}]"
    words = ["pretrain", recipe, "--run", "run", tracker, *EVERY]
    process = start(tmp_path, *words, seconds=1.0)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b'"tokens"') < 25:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(number)
    process.communicate()
    _, err = tfkit(tmp_path, *words, "--resume", seconds=1.0)
    assert f"points for {kind}" not in err
    points, _, lr = read_back(kind, tmp_path)
    expected = {(name, step): value for name, step, value in logged(tmp_path / "run")}
    if not (kind == "wandb" and number == signal.SIGKILL):  # which loses the last 32 KiB of a file
        assert points.keys() == expected.keys()
    assert {len(values) for values in points.values()} == {1}, "a point is there twice"
    for (name, step), (value,) in points.items():
        if name in ("loss", "lr", "grad_norm", "tokens", "evaluation/loss"):
            assert value == (np.float32(expected[name, step]) if kind == "tensorboard" else expected[name, step]), (name, step)
    assert lr in (1e-3, None)
