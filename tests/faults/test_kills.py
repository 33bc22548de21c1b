"""SIGKILL at each point of a save and at any moment of a run; resumed again and again. The end is the same, bit for bit."""

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from saved_runs import STEPS, WORDS, Base
from tiny_files import write_rows
from tiny_runs import After, Before, Process, assert_same_bits, exact, hashes, kept, pretrain, run_tfkit, strike, write_corpus, write_recipe

from tfkit.engine.training_run import checkpointing

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
        Before(checkpointing, "save_checkpoint", self.begin, 2)()
        After(checkpointing, "prune", self.end)()

    def begin(self, *_: object, **__: object) -> None:
        self.on = True

    def end(self, pruned: list[Path], *_: object) -> list[Path]:
        if self.on and self.count_file:
            self.count_file.write_text(str(self.count))
        self.on = False
        return pruned

    def point(self) -> bool:
        """Whether this is the one to be killed at."""
        self.count += self.on
        return self.on and self.count == self.kill_at

    def audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.on and (event in EVENTS or (event == "open" and "step-" in str(arguments[0]))) and self.point():
            os.kill(os.getpid(), signal.SIGKILL)

    def fsync(self, descriptor: int) -> None:
        if self.point():
            if not os.path.isdir(path := f"/proc/self/fd/{descriptor}"):
                os.truncate(path, os.fstat(descriptor).st_size // 2)  # which was opened to be read alone
            os.kill(os.getpid(), signal.SIGKILL)


# Short, and with one checkpoint kept: the second save deletes the first.
SHORT = ["training.steps=2", "training.micro_batch_size=2", "checkpoint={every: 1, keep: 1}", "evaluation.every=2"]


@pytest.fixture(scope="module")
def short(saved: Base, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The run that was never stopped, and the number of points of its second save."""
    folder = tmp_path_factory.mktemp("short")
    pretrain(folder / "run", saved.recipe, *SHORT, before=Points(None, folder / "count")).exits(0)
    count = int((folder / "count").read_text())
    assert count >= 20
    return folder / "run", count


def kill_and_resume(saved: Base, short: Path, folder: Path, point: int) -> None:
    run = folder / f"run-{point}"
    pretrain(run, saved.recipe, *SHORT, before=Points(point)).exits(-signal.SIGKILL)
    done = pretrain(run, saved.recipe, *SHORT, "--resume", "--exact").exits(0)
    assert "skipped a damaged checkpoint" not in done.err, (point, done.err)
    assert not list(run.rglob(".*")), (point, "leftovers")
    assert kept(run) == ["step-000002"]
    assert_same_bits(run, short, 2)


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
        return lambda: os.environ.update(TFKIT_CACHE=str(run.with_suffix(".cache")))

    def unbroken(self) -> Path:
        """The run that was never stopped; it says how long one takes."""
        begin = time.monotonic()
        self.finish(self.folder / "unbroken")
        self.seconds = time.monotonic() - begin
        return self.folder / "unbroken"

    def finish(self, run: Path) -> None:
        run_tfkit(self.folder, self.command(run), self.own_cache(run)).exits(0)

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
    write_rows(folder / "prompts.jsonl", [{"prompt": f"the {number} cats "} for number in range(12)])
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
    run, words = tmp_path / "run", ["--resume", "checkpoint={every: 1, keep: 2}"]
    for _ in range(3):
        saved.run(run, *words, before=strike(number, 3)).exits(143 if number == signal.SIGTERM else -signal.SIGKILL)
    saved.run(run, *words).exits(0)
    assert_same_bits(run, saved.unbroken, STEPS)


@pytest.mark.slow
def test_f40_resumed_at_each_step_of_fifty(saved: Base, tmp_path: Path) -> None:
    """Fifty attempts of one step each."""
    words = ["training.steps=50", "training.micro_batch_size=2", "evaluation.every=20", "model.dropout={residual: 0.1}"]
    pretrain(tmp_path / "straight", saved.recipe, *words).exits(0)
    run = tmp_path / "run"
    for _ in range(50):
        pretrain(run, saved.recipe, *words, "--resume", before=strike(signal.SIGTERM, 1)).exits(143)
    pretrain(run, saved.recipe, *words, "--resume").exits(0)
    assert_same_bits(run, tmp_path / "straight", 50)
