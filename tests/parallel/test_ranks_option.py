"""tfkit pretrain --ranks 2, with processes that are really started."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_files import receipt, wait_for
from tiny_runs import exact, hashes, kept, pretrain, write_corpus, write_recipe

ROOT = Path(__file__).parent.parent.parent
WORDS = ("training.micro_batch_size=2", "--threads", "1")


def start(run: Path, recipe: Path, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tfkit", "pretrain", str(recipe), "--run", str(run), "--ranks", "2", *WORDS, *words]
    (run.parent / "tmp").mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(run.parent / "tmp")}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def alive(run: Path) -> list[str]:
    """Return the processes of a run that are still there."""
    found = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    return [line.decode() for line in found if str(run).encode() in line]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))
    out, err = (process := start(tmp_path / "two", recipe)).communicate()
    assert process.returncode == 0, err
    assert out.count("checkpoint ") == 1
    assert "held out part" in (tmp_path / "two" / "ranks" / "rank-1.log").read_text(encoding="utf-8")
    assert pretrain(tmp_path / "one", recipe, *WORDS[:1]).code == 0
    assert hashes(tmp_path / "two", 12) == hashes(tmp_path / "one", 12)
    assert exact(tmp_path / "two") == exact(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="counts processes by /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_signal_to_the_launcher_ends_all_with_a_checkpoint(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Even the launcher's own end: the ranks see it, save, and leave no orphan and no temporary files."""
    run = tmp_path / "run"
    recipe = write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))
    with start(run, recipe, "training.steps=100000", "checkpoint={every: 2, keep: 1}", "evaluation={every: null}") as process:
        wait_for((run / "checkpoints" / "step-000002").exists)
        process.send_signal(number)
        assert process.wait() == code
    wait_for(lambda: not alive(run))
    assert len(kept(run)) == 1
    assert not list((tmp_path / "tmp").glob("tfkit*"))
    assert '"status": "stopped"' in (run / "run.json").read_text(encoding="utf-8")


@pytest.mark.slow
def test_after_the_loss_of_rank_0_the_last_line_continues(tmp_path: Path) -> None:
    """The launcher reports it, since rank 0 cannot; the same line continues each time."""
    run, recipe = tmp_path / "run", write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))
    with start(run, recipe, "training.steps=400", "checkpoint={every: 50, keep: 1}", "evaluation={every: null}") as process:
        wait_for((run / "checkpoints" / "step-000050").exists)
        os.kill(receipt(run)["attempts"][-1]["pid"], signal.SIGKILL)
        *_, lost, command = process.communicate()[1].splitlines()
    assert process.returncode == 9
    assert lost.endswith("rank 0 of 2 was killed by SIGKILL (by a person, or by the system for lack of memory)")
    assert command.endswith(" --resume")
    done = subprocess.run([sys.executable, "-m", *shlex.split(command)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, kept(run)) == (0, ["step-000400"]), done.stderr


@pytest.mark.slow
def test_a_recipe_that_is_refused_ends_at_once_with_2(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))
    out, err = (process := start(tmp_path / "run", recipe, "training.batch_size=3", "training.micro_batch_size=1")).communicate()
    assert (process.returncode, out) == (2, "")
    assert err.count("cannot be divided evenly among 2 ranks") == 1
