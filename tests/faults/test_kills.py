"""SIGKILL at each point of a save and at any moment of a run; resumed again and again. The end is the same, bit for bit."""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from saved_runs import STEPS, WORDS, Base
from tiny_runs import Process, assert_same_bits, exact, hashes, kept, pretrain, run_tfkit, strike, write_corpus, write_recipe

import tfkit.engine.training_run.checkpointing

EVENTS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}


# ------------------------------------------------------------------------------------------------- at each point of a save


class Points:
    """Counts the points of the second save, which also prunes: just before each change of the disk, and in the middle of each file.

    At the point of this number the process is killed: at an fsync with half of the file cut away, as if its writing had not come further.
    """

    def __init__(self, kill_at: int | None, count_file: Path | None = None):
        self.kill_at, self.count_file = kill_at, count_file
        self.count, self.on = 0, False

    def __call__(self) -> None:
        os.fsync = self.fsync
        sys.addaudithook(self.audit)
        save, prune, calls = tfkit.engine.training_run.checkpointing.save_checkpoint, tfkit.engine.training_run.checkpointing.prune, [0]

        def counted_save(*arguments: Any, **options: Any) -> Path:
            calls[0] += 1
            self.on = calls[0] == 2
            return save(*arguments, **options)

        def counted_prune(*arguments: Any) -> list[Path]:
            found = prune(*arguments)
            if self.on and self.count_file:
                self.count_file.write_text(str(self.count))
            self.on = False
            return found

        tfkit.engine.training_run.checkpointing.save_checkpoint = counted_save
        tfkit.engine.training_run.checkpointing.prune = counted_prune

    def point(self) -> bool:
        """Whether this is the one to be killed at."""
        self.count += self.on
        return self.on and self.count == self.kill_at

    def audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.on and (event in EVENTS or (event == "open" and "step-" in str(arguments[0]))) and self.point():
            os.kill(os.getpid(), signal.SIGKILL)

    def fsync(self, descriptor: int) -> None:
        if self.point():
            size = os.fstat(descriptor).st_size
            if not os.path.isdir(f"/proc/self/fd/{descriptor}"):
                os.truncate(f"/proc/self/fd/{descriptor}", size // 2)  # which was opened to be read alone
            os.kill(os.getpid(), signal.SIGKILL)


# Short, and with one checkpoint kept: the second save deletes the first.
SHORT = ["training.steps=2", "training.micro_batch_size=2", "checkpoint={every: 1, keep: 1}", "evaluation.every=2"]


@pytest.fixture(scope="module")
def short(saved: Base, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The run that was never stopped, and the number of points of its second save."""
    folder = tmp_path_factory.mktemp("short")
    pretrain(folder / "run", saved.recipe, *SHORT, before=Points(None, folder / "count")).exits(0)
    return folder / "run", int((folder / "count").read_text())


def kill_and_resume(saved: Base, short: Path, folder: Path, point: int) -> None:
    run = folder / f"run-{point}"
    done = pretrain(run, saved.recipe, *SHORT, before=Points(point))
    assert done.code == -signal.SIGKILL, (point, done.err)
    done = pretrain(run, saved.recipe, *SHORT, "--resume", "--exact")
    assert done.code == 0, (point, done.err)
    assert "skipped a damaged checkpoint" not in done.err, (point, done.err)
    assert not list(run.rglob(".*")), (point, "leftovers")
    assert kept(run) == ["step-000002"]
    assert_same_bits(run, short, 2)


def test_f01_there_are_many_points(short: tuple[Path, int]) -> None:
    assert short[1] >= 20


@pytest.mark.sampled(3)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_f01_killed_at_some_points_of_a_save(saved: Base, short: tuple[Path, int], tmp_path: Path, share: float) -> None:
    kill_and_resume(saved, short[0], tmp_path, 1 + int(short[1] * share))


@pytest.mark.slow
def test_f01_killed_at_every_point_of_a_save(saved: Base, short: tuple[Path, int], tmp_path: Path) -> None:
    for point in range(1, short[1] + 1):
        kill_and_resume(saved, short[0], tmp_path, point)


# ------------------------------------------------------------------------------------------------------------ at any moment


class AnyMoment:
    """Runs with an empty cache of their own, so that the tokenizer is trained and the text tokenized each time, killed again and again."""

    def __init__(self, folder: Path, seed: int, words: Sequence[str] = ()):
        self.folder, self.words = folder, words
        self.recipe = write_recipe(folder, write_corpus(folder / "corpus", files=40))
        self.random = random.Random(seed)
        self.seconds = 0.0
        self.runs = 0

    def command(self, run: Path) -> list[str]:
        return ["pretrain", str(self.recipe), "--run", str(run), "--threads", "1", "--resume", *WORDS, *self.words]

    def own_cache(self, run: Path) -> Callable[[], None]:
        def before() -> None:
            os.environ["TFKIT_CACHE"] = str(run.with_suffix(".cache"))

        return before

    def unbroken(self) -> Path:
        """The run that was never stopped; it says how long one takes."""
        begin = time.monotonic()
        self.finish(self.folder / "unbroken")
        self.seconds = time.monotonic() - begin
        return self.folder / "unbroken"

    def finish(self, run: Path) -> None:
        done = run_tfkit(self.folder, self.command(run), self.own_cache(run))
        assert done.code == 0, (run, done.err)

    def killed(self, kills: int) -> tuple[Path, int]:
        """A run that is killed up to this many times, and then comes to its end; how many times it was."""
        self.runs += 1
        run = self.folder / f"killed-{self.runs}"
        for kill in range(kills):
            process = Process(self.folder, self.command(run), self.own_cache(run))
            while not process.files[1].exists():  # where its words go
                time.sleep(0.001)
            time.sleep(self.random.uniform(0, self.seconds))
            process.kill(signal.SIGKILL)
            done = process.wait()
            assert done.code in (0, -signal.SIGKILL), (run, done.err)
            if done.code == 0:
                return run, kill
        self.finish(run)
        return run, kills


def sampled(folder: Path) -> list[str]:
    """The words of a run on responses that it samples: four steps an iteration, so that most checkpoints are within one."""
    rows = "".join(json.dumps({"prompt": f"the {number} cats "}) + "\n" for number in range(12))
    (folder / "prompts.jsonl").write_text(rows, encoding="utf-8")
    rules = "rules: [{kind: contains, text: a}, {kind: valid_python}]"
    return [
        f"objective={{kind: grpo, {rules}, prompts: 2, completions: 4, inner_epochs: 2, max_new_tokens: 4}}",
        f"data={{train: [{{path: {folder}/prompts.jsonl}}], validation: 0.4}}",
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["text", pytest.param("rollouts", marks=pytest.mark.slow)])
def test_f02_killed_at_any_moment(kind: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """As many kills as --kills says, spread over runs: of 0 to 4 each, some before there is a checkpoint."""
    wanted, struck, differing = pytestconfig.getoption("--kills"), 0, []
    moments = AnyMoment(tmp_path, seed=wanted, words=sampled(tmp_path) if kind == "rollouts" else ())
    reference = moments.unbroken()
    while struck < wanted:
        run, kills = moments.killed(min(moments.random.randint(1, 4), wanted - struck))
        struck += kills
        if hashes(run, STEPS) != hashes(reference, STEPS) or exact(run) != exact(reference):
            differing.append(run.name)
        assert not list(run.rglob(".*")), "leftovers"
    assert differing == [], f"of {moments.runs} runs with {struck} kills"


# ------------------------------------------------------------------------------------------------------------- again and again


@pytest.mark.sampled(2)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_f40_resumed_three_times(saved: Base, tmp_path: Path, number: int) -> None:
    """Struck after three micro-batches of each attempt: in the middle of an accumulation."""
    run = tmp_path / "run"
    for _ in range(3):
        done = saved.run(run, "--resume", "checkpoint={every: 1, keep: 2}", before=strike(number, 3))
        assert done.code in (143, -signal.SIGKILL), done.err
    saved.run(run, "--resume", "checkpoint={every: 1, keep: 2}").exits(0)
    assert_same_bits(run, saved.unbroken, STEPS)


@pytest.mark.slow
def test_f40_resumed_at_each_step_of_fifty(saved: Base, tmp_path: Path) -> None:
    """Fifty attempts of one step each."""
    words = ["training.steps=50", "training.micro_batch_size=2", "evaluation.every=20", "model.dropout={residual: 0.1}"]
    done = pretrain(tmp_path / "straight", saved.recipe, *words).exits(0)
    run = tmp_path / "run"
    for step in range(1, 51):
        done = pretrain(run, saved.recipe, *words, "--resume", before=strike(signal.SIGTERM, 1))
        assert done.code == 143, (step, done.err)
    pretrain(run, saved.recipe, *words, "--resume").exits(0)
    assert_same_bits(run, tmp_path / "straight", 50)
