"""Trackers of other programs, replaced by fakes: each has every point once, afterwards, live, and after a resumption."""

import json
import signal
import sys
from pathlib import Path

import pytest
from fake_trackers import KINDS, install, logged
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
def test_a_live_tracker_has_each_point_once(
    kind: str, number: int | None, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_without_the_extra_nothing_is_sent_or_trained(
    kind: str, run: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    remedy = f"{kind} needs the extra {kind}: in the folder of tfkit, pip install -e '.[{kind}]'"
    with pytest.raises(MachineError, match="needs the extra"):
        tfkit.track(run, to=kind)
    run_here(["track", run, "--to", kind]).exits(5, remedy)
    pretrain(tmp_path / "run", base / "tiny.yaml", f"trackers=[{{kind: {kind}}}]").exits(5, remedy)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_what_is_no_run_or_no_tracker_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run here"):
        tfkit.track(tmp_path, to="wandb")
    run_here(["track", run, "--to", "paper"]).exits(2, "--to paper: there is no such tracker; wandb, mlflow, trackio, aim, tensorboard")
    receipt = (run / "run.json").read_text(encoding="utf-8")
    (tmp_path / "run.json").write_text(receipt, encoding="utf-8")
    run_here(["track", tmp_path, "--to", "wandb"]).exits(2, f"{tmp_path}: has no metrics yet; name a run that took steps")
