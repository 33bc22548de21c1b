"""Shared by the tests of saving, loading, locks and kills: a run of six steps that saves often, and the one that was never stopped."""

import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_files import receipt
from tiny_runs import Done, Replaced, assert_same_bits, pretrain, strike, write_corpus, write_recipe

STEPS = 6
# Dropout, accumulation, the running mean of the log, evaluation, samples: each has a state of its own.
WORDS = [
    "model.dropout={embedding: 0.1, attention: 0.1, residual: 0.1}",
    "training={steps: 6, batch_size: 4, micro_batch_size: 2, precision: fp32, log_every: 4}",
    "checkpoint={every: 2, keep: 2}",
    "evaluation={every: 3, max_tokens: 100}",
    "generation={prompts: [the cat], max_new_tokens: 4}",
]


class Base:
    """A corpus, a recipe, the run of six steps that was never stopped, and one that was killed in step 5, with checkpoints of 2 and 4."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.recipe = write_recipe(folder, write_corpus(folder / "corpus"))
        self.unbroken = folder / "unbroken"
        self.killed = folder / "killed"
        self.run(self.unbroken).exits(0)
        self.run(self.killed, before=strike(signal.SIGKILL, 9)).exits(-signal.SIGKILL)

    def run(self, run: Path, *words: str, before: Callable[[], object] | None = None) -> Done:
        """Run `tfkit pretrain` with the common words and these."""
        return pretrain(run, self.recipe, *WORDS, *words, before=before)

    def copy_killed(self, run: Path) -> Path:
        """Copy the killed run, to damage it; return its checkpoints folder."""
        shutil.copytree(self.killed, run)
        return run / "checkpoints"

    def assert_ends_the_same(self, run: Path) -> None:
        """Resume the run: it ends with the bits of the one that was never stopped, and leaves nothing over."""
        self.run(run, "--resume").exits(0)
        self.assert_same(run)

    def assert_same(self, run: Path) -> None:
        """Assert that weights, optimizer state, exact fields of the log, and the best equal those of the run that was never stopped."""
        assert_same_bits(run, self.unbroken, STEPS)
        assert (run / "checkpoints" / "best.json").read_bytes() == (self.unbroken / "checkpoints" / "best.json").read_bytes()
        assert receipt(run)["status"] == "finished"
        assert not list(run.rglob(".*")), "leftovers"


def resumed_from(run: Path) -> str | None:
    """Return the checkpoint with which the latest attempt began."""
    return receipt(run)["attempts"][-1]["resumed_from"]


def contents(folder: Path) -> dict[Path, bytes]:
    """Return the bytes of every file below a folder, by its path from there."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def limited_files(owner: Any, name: str, limit: Callable[[], int | None]) -> Callable[[], object]:
    """A fault: no file may have more bytes than `limit` gives while a function is called; the output of the process is a file, too."""

    def make(whole: Callable[..., Any]) -> Callable[..., Any]:
        def limited(*arguments: Any, **options: Any) -> Any:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard if (bytes := limit()) is None else bytes, hard))
            try:
                return whole(*arguments, **options)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

        return limited

    return Replaced(owner, name, make).__call__
