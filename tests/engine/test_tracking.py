"""Trackers of other programs, replaced by fakes: each has every point once, afterwards, live, and after a resumption."""

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
from fake_trackers import KINDS, install, logged
from tiny_files import receipt
from tiny_runs import pretrain, run_here, strike

import tfkit
from tfkit.errors import MachineError, UsageError
from tfkit.recipe import read_recipe

EVERY = ["training.log_every=1", "checkpoint={every: 2, keep: 9}"]


@pytest.fixture(scope="module")
def run(base: Path) -> Path:
    """A run without trackers, whose receipt says what it cost."""
    path = base / "untracked"
    pretrain(path, base / "tiny.yaml", *EVERY).exits(0)
    receipt = json.loads((path / "run.json").read_text(encoding="utf-8"))
    receipt["totals"] |= {"energy_kwh": 0.25, "emissions_g": 14.0}
    (path / "run.json").write_text(json.dumps(receipt), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_sent_once_however_often(kind: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first time behind a link."""
    (tmp_path / "link").symlink_to(run)
    server = install(kind, monkeypatch)
    count = len(logged(run))
    for number, place in enumerate((tmp_path / "link", run)):
        done = run_here(["track", place, "--to", kind, "--project", "demo", "--json"]).exits(0)
        (sent,) = done.document["runs"]
        again = number == 1 and kind != "aim"  # which replaces points
        assert (sent["run"], sent["to"], sent["points"], sent["known"]) == (str(run), kind, 0 if again else count, count if again else 0)
        points, facts = server.single()
        assert len(points) == count
        assert set(points) == logged(run)
        assert (facts["name"], facts["lr"], facts["totals/energy_kwh"], facts["totals/emissions_g"]) == ("untracked", 1e-3, 0.25, 14.0)
    assert [project for project, _ in server.points] == ["demo"]
    [line] = run_here(["track", run, "--to", kind, "--project", "demo"]).exits(0).out.splitlines()
    assert line.startswith(f"{run}: {count if kind == 'aim' else 0} points sent to {kind}")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_sent_on_after_more_steps(kind: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    pretrain(run, base / "tiny.yaml", *EVERY, "training.steps=4").exits(0)
    server = install(kind, monkeypatch)
    first = tfkit.track(run, to=kind)
    pretrain(run, base / "tiny.yaml", *EVERY, "training.steps=6", "--resume").exits(0)
    second = tfkit.track(run, to=kind)
    points, _ = server.single()
    assert {point[:2] for point in points} == {point[:2] for point in logged(run)}
    assert len(points) == len(logged(run))
    assert [one.points for one in first] < [len(points)]
    assert second[0].points + second[0].known == len(points)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [signal.SIGTERM, None], ids=["stopped", "whole"])
def test_a_tracker_has_each_point_once(kind: str, number: int | None, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, run = install(kind, monkeypatch), tmp_path / "run"
    words = [*EVERY, f"trackers=[{{kind: {kind}, project: live}}]"]
    if number is not None:
        pretrain(run, base / "tiny.yaml", *words, before=strike(number, 20)).exits(143)
        *kept, newest = sorted((run / "checkpoints").glob("step-*"))
        assert kept
        newest.rename(tmp_path / "lost")  # so that the next attempt repeats steps that the tracker has
    done = pretrain(run, base / "tiny.yaml", *words, *(["--resume"] if number is not None else [])).exits(0)
    assert "were not written" not in done.err
    assert "* " not in done.out
    points, facts = server.single()
    assert len({point[:2] for point in points}) == len(points) == len(logged(run))
    exact = ("loss", "lr", "grad_norm", "tokens", "evaluation/loss")
    assert {point for point in points if point[0] in exact} == {point for point in logged(run) if point[0] in exact}
    assert (facts["name"], facts["lr"]) == ("run", 1e-3)


def test_f39_a_tracker_may_come_when_a_run_is_resumed(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, run = install("wandb", monkeypatch), tmp_path / "run"
    pretrain(run, base / "tiny.yaml", *EVERY, before=strike(signal.SIGTERM, 7)).exits(143)
    stopped_at = max(step for _, step, _ in logged(run))
    run_here(["resume", run, "trackers=[{kind: wandb}]"]).exits(0, "this run continues with changes to its recipe:\n  trackers: ")
    points, _ = server.single()
    assert {point[:2] for point in points} == {point[:2] for point in logged(run) if point[1] > stopped_at}


def test_a_tracker_that_refuses_does_not_end_a_run(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = install("wandb", monkeypatch)
    server.refuses = True
    done = pretrain(tmp_path / "run", base / "tiny.yaml", *EVERY, "trackers=[{kind: wandb}]").exits(0)
    assert "points for wandb were not written (RuntimeError: no key: log in first" in done.err
    done = run_here(["track", tmp_path / "run", "--to", "wandb"]).exits(5)
    assert f"{tmp_path / 'run'}: wandb refused it: no key: log in first. Correct this, then track the run again" in done.err
    assert "or do not" not in done.err


@pytest.mark.thorough
def test_stages_are_sent_one_by_one(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = install("mlflow", monkeypatch)
    text = read_recipe(str(base / "tiny.yaml")).text
    stage = "".join(f"    {line}\n" for line in text.splitlines() if line and not line.startswith("#"))
    (tmp_path / "chain.yaml").write_text(f"stages:\n  one:\n{stage}  two:\n{stage}", encoding="utf-8")
    pretrain(tmp_path / "chain", tmp_path / "chain.yaml").exits(0)
    sent = tfkit.track(tmp_path / "chain", to="mlflow")
    assert [Path(one.run).name for one in sent] == ["one", "two"]
    assert sorted(facts["name"] for facts in server.facts.values()) == ["chain-one", "chain-two"]
    for one, points in zip(sent, server.points.values(), strict=True):
        assert set(points) == logged(Path(one.run))


def test_tensorboard_has_the_points_of_a_run_that_had_no_tracker(run: Path) -> None:
    count = len(logged(run))
    for expected in ((count, 0), (0, count)):
        (sent,) = tfkit.track(run, to="tensorboard")
        assert (sent.points, sent.known, sent.place) == (*expected, str(run / "tensorboard"))


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_extra_nothing_is_sent(kind: str, run: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    remedy = f"{kind} needs the extra {kind}: in the folder of tfkit, pip install -e '.[{kind}]'"
    with pytest.raises(MachineError, match="needs the extra"):
        tfkit.track(run, to=kind)
    run_here(["track", run, "--to", kind]).exits(5, remedy)
    pretrain(tmp_path / "run", base / "tiny.yaml", f"trackers=[{{kind: {kind}}}]").exits(5, remedy)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_what_is_no_run_or_no_tracker_is_named(run: Path, tmp_path: Path) -> None:
    for place, project, said in ((tmp_path, None, "there is no run here"), (run, "", "project: is empty")):
        with pytest.raises(UsageError, match=said):
            tfkit.track(place, to="wandb", project=project)
    run_here(["track", run, "--to", "paper"]).exits(2, "--to paper: there is no such tracker; wandb, mlflow, trackio, aim, tensorboard")
    of_a_project = ["track", run, "--to", "tensorboard", "--project", "tfkit"]
    run_here(of_a_project).exits(2, "--project tfkit: has no effect, since TensorBoard has no projects; leave it out")
    receipt = (run / "run.json").read_text(encoding="utf-8")
    (tmp_path / "run.json").write_text(receipt, encoding="utf-8")
    run_here(["track", tmp_path, "--to", "wandb"]).exits(2, f"{tmp_path}: has no metrics yet; name a run that took steps")


# -- the trackers themselves, where they are installed: exactly the points of metrics.jsonl, once, also of a run that was killed


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
LONGER = ("training.log_every=1", "training.steps=40", "checkpoint={every: 10, keep: 5}", "evaluation={every: 10, max_tokens: 300}")
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


def ended(folder: Path, *words: str, seconds: float = 0.0) -> tuple[str, str]:
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
    ended(tmp_path, "pretrain", recipe, "--run", "run", "training.log_every=1")
    document = receipt(tmp_path / "run")
    document["totals"]["energy_kwh"] = 0.0123  # too short a run has none
    (tmp_path / "run" / "run.json").write_text(json.dumps(document), encoding="utf-8")
    sent = []
    for _ in range(2):
        out, _ = ended(tmp_path, "track", "run", "--to", kind, "--project", "demo", "--json")
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
    words = ["pretrain", recipe, "--run", "run", tracker, *LONGER]
    process = start(tmp_path, *words, seconds=1.0)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b'"tokens"') < 25:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(number)
    process.communicate()
    _, err = ended(tmp_path, *words, "--resume", seconds=1.0)
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
