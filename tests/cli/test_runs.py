"""tfkit runs: what is in a folder of runs, named for what it is; killed runs completed; the deletion of what came to nothing."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Done, pretrain, run_here, run_tfkit, strike, write_corpus, write_recipe

from tfkit.run.listing import read_run
from tfkit.run.lock import FolderLock

WORDS = ["checkpoint.every=2", "training.steps=6", "evaluation.every=2", "training.log_every=1", "training.micro_batch_size=4"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs in every state, and of what is none."""
    place = tmp_path_factory.mktemp("listed")
    recipe, folder = write_recipe(place, write_corpus(place / "corpus")), place / "runs"
    folder.mkdir()
    strikes: dict[str, Any] = {
        "stopped": strike(signal.SIGTERM, 5),
        "killed": strike(signal.SIGKILL, 5),
        "early": strike(signal.SIGKILL, 1),
    }
    for name in ("finished", *strikes):
        pretrain(folder / name, recipe, *WORDS, before=strikes.get(name))
    pretrain(folder / "failed", recipe, "data.train=[{path: nowhere.txt}]").exits(3)
    (folder / "notes").mkdir()
    (folder / "damaged").mkdir()
    (folder / "damaged" / "run.json").write_text("{", encoding="utf-8")
    shutil.copytree(folder / "finished", folder / "chain" / "first")
    os.symlink(folder / "finished", folder / "link")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "runs", symlinks=True)


def runs(folder: Path, *words: str) -> Done:
    return run_tfkit(folder.parent, ["runs", str(folder), *words])


def test_every_run_is_listed_as_what_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # the folder's name is long
    document = json.loads(runs(folder, "--json").exits(0).out)
    found = {Path(one["run"]).name: one for one in document["runs"]}
    facts = {name: (one["kind"], one["status"], one["steps"], one["planned_steps"]) for name, one in found.items()}
    assert facts == {
        "finished": ("pretrain", "finished", 6, 6),
        "stopped": ("pretrain", "stopped", 5, 6),
        "killed": ("pretrain", "killed", 4, 6),
        "early": ("pretrain", "killed", 0, 6),
        "failed": ("pretrain", "failed", 0, None),
        "first": ("pretrain", "finished", 6, 6),
        "damaged": (None, "damaged", None, None),
        "link": (None, "foreign", None, None),
        "notes": (None, "foreign", None, None),
    }
    assert found["stopped"]["resume"] == f"tfkit resume {folder / 'stopped'}"
    assert found["finished"]["resume"] is None
    assert found["finished"]["metrics"].keys() == found["killed"]["metrics"].keys() >= {"loss", "perplexity"}
    assert found["finished"]["best"]["metric"] == "loss"
    assert "nowhere.txt" in found["failed"]["problem"]
    assert found["notes"]["problem"] == "no run.json: no run of tfkit"
    lines = runs(folder).out.splitlines()
    assert lines[0].split() == ["run", "kind", "status", "steps", "best", "score", "time", "energy", "CO2e"]
    assert any(line.split()[1:4] == ["pretrain", "stopped", "5/6"] for line in lines)
    assert [line for line in lines if line.startswith(f"{folder / 'failed'}: DataError: ")]
    alone = json.loads(runs(folder / "finished", "--json").out)["runs"]
    assert [one["run"] for one in alone] == [str(folder / "finished")]


def test_the_command_that_continues_a_run_allows_the_code_that_was_allowed_before(folder: Path) -> None:
    record = folder / "stopped" / "run.json"
    command = ["tfkit", "finetune", "mine.yaml", "--allow-code", "--run", str(folder / "stopped")]  # as the program records it
    record.write_text(json.dumps(json.loads(record.read_bytes()) | {"command": command}), encoding="utf-8")
    assert read_run(folder / "stopped").resume == f"tfkit resume {folder / 'stopped'} --allow-code"


def test_a_run_without_its_run_json_is_said_to_lack_it(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder / "finished", other / "lost")
    (other / "lost" / "run.json").unlink()
    for given in (other, other / "lost"):
        (found,) = json.loads(runs(given, "--json").out)["runs"]
        assert (Path(found["run"]).name, found["status"], found["checkpoints"] > 0) == ("lost", "damaged", True)
        assert found["problem"].startswith("its run.json is missing")
    kept = sorted((other / "lost").rglob("*"))
    recipe = write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))
    for words in (["resume", other / "lost"], ["pretrain", recipe, "--run", other / "lost"], ["report", other]):
        done = run_tfkit(tmp_path, words)
        assert (done.code, "its run.json is missing" in done.err, "not written by tfkit" in done.err) == (2, True, False), done.err
    run_tfkit(tmp_path, ["runs", other, "--delete-unfinished", "--with-checkpoints", "--yes"]).exits(0)
    assert sorted((other / "lost").rglob("*")) == kept


@pytest.mark.parametrize("command", ["runs", "evaluate", "generate"])
def test_a_killed_run_is_completed_by_the_next_command(folder: Path, command: str) -> None:
    run = folder / "killed"
    before = json.loads((run / "run.json").read_bytes())
    assert (before["status"], before["attempts"][0]["status"], "totals" in before) == ("running", "running", False)
    more = ["--prompt", "the", "--max-new-tokens", "1"] if command == "generate" else []
    words = [str(folder)] if command == "runs" else ["--from", str(run), "carbon.enabled=false", *more]
    run_tfkit(folder.parent, [command, *words]).exits(0)
    receipt = json.loads((run / "run.json").read_bytes())
    (attempt,) = receipt["attempts"]
    assert (receipt["status"], attempt["status"], attempt["to_step"], attempt["ended_utc"]) == ("killed", "killed", 4, None)
    assert receipt["totals"]["tokens"] == 4 * 4 * 16
    assert receipt["totals"]["seconds"] == attempt["seconds"] > 0
    assert receipt["command"] == before["command"]


def test_a_run_without_a_checkpoint_is_named_for_what_it_is(folder: Path) -> None:
    for name, state in {"failed": "failed (DataError: ", "early": "was killed"}.items():
        done = run_tfkit(folder.parent, ["evaluate", "--from", str(folder / name)]).exits(4, f"this run {state}")
    receipt = json.loads((folder / "failed" / "run.json").read_bytes()) | {"command": ["tfkit", "pretrain", "a recipe.yaml"]}
    (folder / "failed" / "run.json").write_text(json.dumps(receipt), encoding="utf-8")  # here it is the test's own
    done = run_tfkit(folder.parent, ["resume", str(folder / "failed")]).exits(2, "it is failed (DataError: ")
    assert done.err.endswith("Start it again: tfkit pretrain 'a recipe.yaml' --resume\n")
    run_tfkit(folder.parent, ["resume", str(folder / "notes")]).exits(2, "no run of tfkit")


def test_only_runs_that_came_to_nothing_are_deleted(folder: Path) -> None:
    """Neither one at work, nor one with a checkpoint unless that is asked for, nor what is no run, nor other files in a run's folder."""
    shutil.copytree(folder / "early", folder / "at-work")
    shutil.copytree(folder / "early", folder / "with-notes")
    (folder / "with-notes" / "notes.txt").write_text("mine", encoding="utf-8")
    lock = FolderLock(folder / "at-work" / "lock")
    lock.acquire()
    everything = {path.name for path in folder.iterdir()}
    done = runs(folder, "--delete-unfinished")
    assert (done.code, done.out, {path.name for path in folder.iterdir()}) == (2, "", everything)
    assert "add --yes to do so" in done.err
    with pytest.MonkeyPatch.context() as closed:
        closed.setattr("sys.stdin", None)
        run_here(["runs", folder, "--delete-unfinished"]).exits(2, "add --yes to do so")
    done = runs(folder, "--delete-unfinished", "--yes", "--json").exits(0)
    assert {path.name for path in folder.iterdir()} == everything - {"early", "failed"}
    assert os.listdir(folder / "with-notes") == ["notes.txt"]
    document = json.loads(done.out)
    assert sorted(document["deleted"]) == [str(folder / name) for name in ("early", "failed", "with-notes")]
    listed = {one["run"]: one["status"] for one in document["runs"]}
    assert (listed[str(folder / "at-work")], listed[str(folder / "with-notes")]) == ("running", "foreign")
    runs(folder, "--delete-unfinished", "--with-checkpoints", "--yes").exits(0)
    assert {path.name for path in folder.iterdir()} == everything - {"early", "failed", "stopped", "killed"}
    lock.release()


def test_other_words(tmp_path: Path) -> None:
    runs(tmp_path / "nowhere").exits(2)
    runs(tmp_path, "--yes").exits(2)
    (tmp_path / "empty").mkdir()
    assert runs(tmp_path / "empty").out == f"{tmp_path / 'empty'}: no runs\n"


def test_a_run_behind_a_link_is_listed_if_the_link_is_named(folder: Path) -> None:
    [named] = json.loads(runs(folder / "link", "--json").exits(0).out)["runs"]
    assert (Path(named["run"]).name, named["status"], named["steps"]) == ("finished", "finished", 6)


def test_a_start_that_fails_at_once_leaves_no_folder(tmp_path: Path) -> None:
    """Nothing was measured or recorded yet: the data that a fine-tuning without a recipe would look at are not there."""
    recipe = write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))
    pretrain(tmp_path / "start", recipe, "training.steps=3", "evaluation.every=null").exits(0)
    words = ["finetune", "--from", "start", "--data", "nowhere.csv", "--run", "run"]
    os.chdir(tmp_path)
    done = run_tfkit(tmp_path, words)
    assert (done.code, (tmp_path / "run").exists()) == (3, False), done.err


@pytest.mark.parametrize("width", [None, 70, 200])
def test_the_table_fits_the_terminal(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int | None) -> None:
    """80 columns where there is none: the columns that have no room are named."""
    shutil.copytree(made / "finished", tmp_path / "runs" / "a-name-of-a-run-that-leaves-little-room")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    if width is not None:
        monkeypatch.setenv("COLUMNS", str(width))
    done = run_tfkit(tmp_path, ["runs", "runs"])
    [head, row, *notes] = done.out.splitlines()
    assert max(len(head), len(row)) <= (width or 80)
    assert ("energy" in head, "energy" in "".join(notes)) == (width == 200, width != 200)
    assert row.startswith("runs/a-name-of-a-run-that-leaves-little-room ")
