"""Checkpoints survive kills at every point of a save, full disks, damage and links. The processes and limits are real."""

import errno
import math
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_files import flip
from tiny_runs import Process, raising

from tfkit import durable
from tfkit.errors import MachineError, ModelError, Stopped
from tfkit.run.best_json import best_checkpoint, read_best, record_best
from tfkit.run.checkpoints import (
    checkpoints,
    clear_leftovers,
    newest_checkpoint,
    newest_good,
    prune,
    require_free_space,
    save_checkpoint,
    step_of,
)


def writer(content: str, size: int = 4096) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "config.json").write_text(content)
        (folder / "model.safetensors").write_bytes(content.encode() * (size // len(content)))
        (folder / "training_state").mkdir()
        (folder / "training_state" / "state.json").write_text(content)

    return write


def save(root: Path, *steps: int) -> None:
    for step in steps:
        save_checkpoint(root, step, writer("x"))


def content(checkpoint: Path) -> str:
    return (checkpoint / "training_state" / "state.json").read_text()


def kill_at(point: int) -> None:
    """Make this process kill itself at its `point`-th change of the disk: just before an open, mkdir, rename, removal or fsync."""
    left = [point]

    def count() -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event in {"os.mkdir", "os.rename", "os.remove", "os.rmdir"} or (event == "open" and "step-" in str(arguments[0])):
            count()

    def counted_fsync(descriptor: int, fsync: Callable[[int], None] = os.fsync) -> None:
        count()
        fsync(descriptor)

    os.fsync = counted_fsync
    sys.addaudithook(audit)


def test_all_of_it_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a power cut could leave the name and lose the content. The name itself is on the disk before the save returns."""
    before, after = set(), set()

    def noted(descriptor: int) -> None:
        (after if (tmp_path / "step-000001").exists() else before).add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", noted)
    saved = save_checkpoint(tmp_path, 1, writer("one"))
    assert {path.stat().st_ino for path in (saved, *saved.rglob("*"))} <= before
    assert after == {tmp_path.stat().st_ino}


AT_WORK: dict[str, Callable[[Path], object]] = {
    "replacing the newest": lambda root: save_checkpoint(root, 2, writer("new")),
    "saving a new one": lambda root: save_checkpoint(root, 3, writer("new")),
    "pruning": lambda root: prune(root, 1, None),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("work", AT_WORK)
def test_killed_at_every_point(tmp_path: Path, work: str) -> None:
    for point in range(500):
        root = tmp_path / str(point)
        for step, text in enumerate(("zero", "one", "two")):
            save_checkpoint(root, step, writer(text))

        child = Process(tmp_path, [], partial(kill_at, point), lambda _, root=root: int(AT_WORK[work](root) is None))
        status = child.wait().code
        assert status in (0, -signal.SIGKILL)
        newest = newest_good(root, pytest.fail)
        whole = (newest.name, content(newest))
        assert checkpoints(root) == sorted(root.iterdir()), "leftovers"
        if work == "pruning":
            assert whole == ("step-000002", "two")
            assert status or len(checkpoints(root)) == 1
        else:
            new = ("step-000002" if work == "replacing the newest" else "step-000003", "new")
            assert whole in ([("step-000002", "two"), new] if status else [new])
            assert content(root / "step-000001") == "one"
            assert status or point >= 20, "the hook saw too few points"
        if status == 0:
            return
    raise AssertionError("never finished")


def test_room_is_made_once(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)

    def full_while_the_first_is_there(folder: Path) -> None:
        writer("new")(folder)
        if (tmp_path / "step-000001").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save_checkpoint(tmp_path, 3, full_while_the_first_is_there, make_room=lambda: prune(tmp_path, 1, None))
    assert [step_of(path) for path in checkpoints(tmp_path)] == [2, 3]


def test_room_that_is_not_enough_stops_the_run(tmp_path: Path) -> None:
    calls: list[int] = []
    full = raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(MachineError, match=r"No space left .* GB free"):
        save_checkpoint(tmp_path, 3, full, make_room=lambda: calls.append(1))
    assert calls == [1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyError("bug"), ModelError("bad"), Stopped("stop", 15), KeyboardInterrupt()])
def test_what_the_writer_raises_comes_through_and_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def write(folder: Path) -> None:
        (folder / "config.json").touch()
        raise error

    with pytest.raises(type(error)) as caught:
        save_checkpoint(tmp_path, 1, write)
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rename_keeps_the_checkpoint_that_was_to_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "PAUSES", (0, 0, 0))
    save_checkpoint(tmp_path, 1, writer("one"))
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if ".tmp-" in self.name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(MachineError, match="Input/output error"):
        save_checkpoint(tmp_path, 1, writer("new"))
    assert content(tmp_path / "step-000001") == "one"
    assert os.listdir(tmp_path) == ["step-000001"]


def test_no_good_one_is_an_error_and_none_at_all_is_not(tmp_path: Path) -> None:
    assert newest_good(tmp_path / "nothing", pytest.fail) is None
    assert checkpoints(tmp_path / "nothing") == []
    (tmp_path / "step-000007").mkdir()
    with pytest.raises(ModelError, match=r"step-000007/manifest.json: missing"):
        newest_good(tmp_path, lambda message: None)
    assert newest_checkpoint(tmp_path) is None


def test_order_is_by_number(tmp_path: Path) -> None:
    save(tmp_path, 1_000_000, 999_999, 5)
    (tmp_path / "step-5").mkdir()
    (tmp_path / "step-999999999").symlink_to(tmp_path / "step-000005")
    assert [step_of(path) for path in checkpoints(tmp_path)] == [5, 999_999, 1_000_000]
    assert newest_checkpoint(tmp_path) == tmp_path / "step-1000000"


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "checkpoints"
    elsewhere.mkdir()
    root.mkdir()
    (root / "step-000001").symlink_to(elsewhere)
    save_checkpoint(root, 1, writer("new"))
    assert list(elsewhere.iterdir()) == []
    assert not (root / "step-000001").is_symlink()
    clear_leftovers(root)
    assert os.listdir(root) == ["step-000001"]


def test_prune_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    save(tmp_path, *range(1, 7))
    record_best(tmp_path, 2, "loss", 1.0)
    (tmp_path / "step-000003" / "config.json").unlink()
    removed = prune(tmp_path, 2, best_checkpoint(tmp_path))
    assert [step_of(path) for path in removed] == [1, 4]
    assert [step_of(path) for path in checkpoints(tmp_path)] == [2, 5, 6]


def test_the_best_is_the_lowest_finite_value(tmp_path: Path) -> None:
    assert read_best(tmp_path) is None
    assert not record_best(tmp_path, 1, "loss", float("nan"))
    assert read_best(tmp_path) is None
    said = []
    for step, value in enumerate([3.0, float("-inf"), 2.0, 2.0, 2.5, float("nan")], 1):
        save_checkpoint(tmp_path, step, writer("x"))
        said.append(record_best(tmp_path, step, "loss", value))
    assert said == [True, False, True, False, False, False]
    best = read_best(tmp_path)
    assert (best.step, best.metric, best.value) == (3, "loss", 2.0)
    assert best_checkpoint(tmp_path) == tmp_path / "step-000003"


def test_a_best_checkpoint_that_is_lost_makes_way_for_a_worse_one(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3)
    assert record_best(tmp_path, 1, "loss", 1.0)
    shutil.rmtree(tmp_path / "step-000001")
    for step in (2, 3):
        assert best_checkpoint(tmp_path) is None
        assert record_best(tmp_path, step, "loss", float(step))
        assert best_checkpoint(tmp_path) == tmp_path / f"step-{step:06d}"
        os.truncate(tmp_path / f"step-{step:06d}" / "model.safetensors", 9)


def test_the_best_may_be_the_highest_and_is_judged_by_one_metric(tmp_path: Path) -> None:
    save(tmp_path, 1, 3)
    assert record_best(tmp_path, 1, "accuracy", 0.5, higher_is_better=True)
    assert not record_best(tmp_path, 2, "accuracy", 0.4, higher_is_better=True)
    assert record_best(tmp_path, 3, "accuracy", 0.6, higher_is_better=True)
    assert record_best(tmp_path, 3, "accuracy", 0.55, higher_is_better=True), "the same step, evaluated again"
    assert record_best(tmp_path, 4, "loss", 9.0)


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"step": "3", "metric": "loss", "value": 1}', '{"step": 3, "metric": "loss", "value": NaN}']
)
def test_a_damaged_record_of_the_best_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "best.json").write_text(text)
    assert best_checkpoint(tmp_path) is None
    assert record_best(tmp_path, 3, "loss", 1.0)


class Story:
    """A folder of checkpoints, a random sequence of actions on it, and the checks after each action."""

    def __init__(self, root: Path):
        self.root, self.step = root, 0

    def save(self) -> None:
        self.step += 1
        save_checkpoint(self.root, self.step, writer("x", 8))

    def score(self, value: float) -> None:
        if self.step and record_best(self.root, self.step, "loss", value):
            assert math.isfinite(value)

    def prune(self, keep: int) -> None:
        before = best_checkpoint(self.root)
        prune(self.root, keep, before)
        assert best_checkpoint(self.root) == before
        assert newest_checkpoint(self.root) == (self.root / f"step-{self.step:06d}" if self.step else None)

    def damage_and_resume(self, cut: bool) -> None:
        """Damage the newest checkpoint, unless it is the only one, and find the checkpoint from which a run would resume."""
        found = checkpoints(self.root)
        if len(found) < 2:
            return
        file = found[-1] / "model.safetensors"
        os.truncate(file, 3) if cut else flip(file)
        good = newest_good(self.root, lambda message: None)
        assert good == found[-2]
        self.step = step_of(good)


stories = st.lists(
    st.one_of(
        st.tuples(st.just("save")),
        st.tuples(st.just("score"), st.sampled_from([1.0, 2.0, 3.0, math.nan])),
        st.tuples(st.just("prune"), st.integers(1, 3)),
        st.tuples(st.just("damage_and_resume"), st.booleans()),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=60)
@given(stories)
def test_neither_the_last_nor_the_best_is_ever_pruned(story: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Story(Path(folder))
        for action, *arguments in story:
            getattr(run, action)(*arguments)


def test_the_room_for_checkpoints_is_that_of_the_disk_and_of_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_free_space(Path("relative/not/yet"), 1)
    with pytest.raises(MachineError, match=r"need 1e\+09 GB, the disk has \S+ GB free"):
        require_free_space(tmp_path / "not" / "yet", 10**18)
    save_checkpoint(tmp_path, 1, writer("x"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    require_free_space(tmp_path, 5000)
    with pytest.raises(MachineError, match="the disk has 1e-06 GB free"):
        require_free_space(tmp_path, 6000)


def test_leftovers_are_removed_and_other_files_left_alone(tmp_path: Path) -> None:
    """The card is written again after the save, when the scores are known; a kill can interrupt that."""
    for name in (".hidden", "notes.txt", ".step-000001.tmp", "step-1"):
        (tmp_path / name).touch()
    checkpoint = save_checkpoint(tmp_path, 1, writer("x"))
    (checkpoint / ".mine").touch()
    before = {*tmp_path.rglob("*")}
    (checkpoint / ".README.md.tmp-4711-9f3c00aa").write_text("half")
    clear_leftovers(tmp_path)
    assert {*tmp_path.rglob("*")} == before
