"""tfkit runs: what is in a folder of runs, named for what it is; killed runs completed; the deletion of what came to nothing."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from tiny_files import receipt
from tiny_runs import Done, pretrain, run_here, strike, write_corpus, write_recipe

from tfkit.run.listing import read_run
from tfkit.run.lock import FolderLock

WORDS = ["checkpoint.every=2", "training.steps=6", "evaluation.every=2", "training.log_every=1", "training.micro_batch_size=4"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs in every state, and of what is none."""
    place = tmp_path_factory.mktemp("listed")
    recipe, folder = write_recipe(place, write_corpus(place / "corpus")), place / "runs"
    folder.mkdir()
    strikes = {"stopped": strike(signal.SIGTERM, 5), "killed": strike(signal.SIGKILL, 5), "early": strike(signal.SIGKILL, 1)}
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
    return run_here(["runs", folder, *words])


def listed(folder: Path) -> list[dict[str, Any]]:
    return runs(folder, "--json").exits(0).document["runs"]


def test_every_run_is_listed_as_what_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # the folder's name is long
    found = {Path(one["run"]).name: one for one in listed(folder)}
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
    assert (found["stopped"]["resume"], found["finished"]["resume"]) == (f"tfkit resume {folder / 'stopped'}", None)
    assert found["finished"]["metrics"].keys() == found["killed"]["metrics"].keys() >= {"loss", "perplexity"}
    assert found["finished"]["best"]["metric"] == "loss"
    assert "nowhere.txt" in found["failed"]["problem"]
    assert found["notes"]["problem"] == "no run.json: no run of tfkit"
    lines = runs(folder).out.splitlines()
    assert lines[0].split() == ["run", "kind", "status", "steps", "best", "score", "time", "energy", "CO2e"]
    assert any(line.split()[1:4] == ["pretrain", "stopped", "5/6"] for line in lines)
    assert [line for line in lines if line.startswith(f"{folder / 'failed'}: DataError: ")]
    assert [one["run"] for one in listed(folder / "finished")] == [str(folder / "finished")]
    [behind_a_link] = listed(folder / "link")  # which is listed if the link is named
    assert (Path(behind_a_link["run"]).name, behind_a_link["status"], behind_a_link["steps"]) == ("finished", "finished", 6)


def set_command(run: Path, *words: str) -> None:
    """Write another command into run.json, as the program records it."""
    (run / "run.json").write_text(json.dumps(receipt(run) | {"command": words}), encoding="utf-8")


def test_the_command_that_continues_a_run_allows_the_code_that_was_allowed_before(folder: Path) -> None:
    set_command(folder / "stopped", "tfkit", "finetune", "mine.yaml", "--allow-code", "--run", str(folder / "stopped"))
    assert read_run(folder / "stopped").resume == f"tfkit resume {folder / 'stopped'} --allow-code"


def test_a_run_without_its_run_json_is_said_to_lack_it(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    lost = Path(shutil.copytree(folder / "finished", other / "lost"))
    (lost / "run.json").unlink()
    for given in (other, lost):
        (found,) = listed(given)
        assert (Path(found["run"]).name, found["status"], found["checkpoints"] > 0) == ("lost", "damaged", True)
        assert found["problem"].startswith("its run.json is missing")
    kept = sorted(lost.rglob("*"))
    recipe = write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))
    for words in (["resume", lost], ["pretrain", recipe, "--run", lost], ["report", other]):
        assert "not written by tfkit" not in run_here(words).exits(2, "its run.json is missing").err
    runs(other, "--delete-unfinished", "--with-checkpoints", "--yes").exits(0)
    assert sorted(lost.rglob("*")) == kept


@pytest.mark.parametrize("command", ["runs", "evaluate", "generate"])
def test_a_killed_run_is_completed_by_the_next_command(folder: Path, command: str) -> None:
    run = folder / "killed"
    before = receipt(run)
    assert (before["status"], before["attempts"][0]["status"], "totals" in before) == ("running", "running", False)
    more = ["--prompt", "the", "--max-new-tokens", "1"] if command == "generate" else []
    words = [str(folder)] if command == "runs" else ["--from", str(run), "carbon.enabled=false", *more]
    run_here([command, *words]).exits(0)
    about = receipt(run)
    (attempt,) = about["attempts"]
    assert (about["status"], attempt["status"], attempt["to_step"], attempt["ended_utc"]) == ("killed", "killed", 4, None)
    assert (about["totals"]["tokens"], about["command"]) == (4 * 4 * 16, before["command"])
    assert about["totals"]["seconds"] == attempt["seconds"] > 0


def test_a_run_without_a_checkpoint_is_named_for_what_it_is(folder: Path) -> None:
    for name, state in {"failed": "failed (DataError: ", "early": "was killed"}.items():
        run_here(["evaluate", "--from", folder / name]).exits(4, f"this run {state}")
    set_command(folder / "failed", "tfkit", "pretrain", "a recipe.yaml")  # here it is the test's own
    done = run_here(["resume", folder / "failed"]).exits(2, "it is failed (DataError: ")
    assert done.err.endswith("Start it again: tfkit pretrain 'a recipe.yaml' --resume\n")
    run_here(["resume", folder / "notes"]).exits(2, "no run of tfkit")


def test_only_runs_that_came_to_nothing_are_deleted(folder: Path) -> None:
    """Neither one at work, nor one with a checkpoint unless that is asked for, nor what is no run, nor other files in a run's folder."""
    shutil.copytree(folder / "early", folder / "at-work")
    shutil.copytree(folder / "early", folder / "with-notes")
    (folder / "with-notes" / "notes.txt").write_text("mine", encoding="utf-8")
    lock = FolderLock(folder / "at-work" / "lock")
    lock.acquire()
    everything = {*os.listdir(folder)}
    runs(folder, "--delete-unfinished").refuses(2, "add --yes to do so")
    with pytest.MonkeyPatch.context() as closed:
        closed.setattr("sys.stdin", None)
        runs(folder, "--delete-unfinished").refuses(2, "add --yes to do so")
    assert {*os.listdir(folder)} == everything
    document = runs(folder, "--delete-unfinished", "--yes", "--json").exits(0).document
    assert {*os.listdir(folder)} == everything - {"early", "failed"}
    assert os.listdir(folder / "with-notes") == ["notes.txt"]
    assert sorted(document["deleted"]) == [str(folder / name) for name in ("early", "failed", "with-notes")]
    statuses = {Path(one["run"]).name: one["status"] for one in document["runs"]}
    assert (statuses["at-work"], statuses["with-notes"]) == ("running", "foreign")
    runs(folder, "--delete-unfinished", "--with-checkpoints", "--yes").exits(0)
    assert {*os.listdir(folder)} == everything - {"early", "failed", "stopped", "killed"}
    lock.release()


def test_other_words(tmp_path: Path) -> None:
    runs(tmp_path / "nowhere").exits(2)
    runs(tmp_path, "--yes").exits(2)
    (tmp_path / "empty").mkdir()
    assert runs(tmp_path / "empty").out == f"{tmp_path / 'empty'}: no runs\n"


def test_a_start_that_fails_at_once_leaves_no_folder(made: Path, in_tmp_path: None) -> None:
    """Nothing was measured or recorded yet: the data that a fine-tuning without a recipe would look at are not there."""
    run_here(["finetune", "--from", made / "finished", "--data", "nowhere.csv", "--run", "run"]).exits(3)
    assert not Path("run").exists()


@pytest.mark.parametrize("width", [None, 70, 200])
def test_the_table_fits_the_terminal(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int | None) -> None:
    """80 columns where there is none: the columns that have no room are named."""
    shutil.copytree(made / "finished", tmp_path / "runs" / "a-name-of-a-run-that-leaves-little-room")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    if width is not None:
        monkeypatch.setenv("COLUMNS", str(width))
    [head, row, *notes] = runs(Path("runs")).out.splitlines()
    assert max(len(head), len(row)) <= (width or 80)
    assert ("energy" in head, "energy" in "".join(notes)) == (width == 200, width != 200)
    assert row.startswith("runs/a-name-of-a-run-that-leaves-little-room ")
