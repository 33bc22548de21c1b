"""Count the files of tfkit of which a function runs before the first step of the smallest pretraining: the way that a reader follows.

    python benchmarks/files_before_step.py            # the number, and the files by package
    python benchmarks/files_before_step.py --predict  # of `tfkit predict` on a csv file, to its end
    python benchmarks/files_before_step.py --json

It runs `tfkit pretrain r.yaml --run R` on four made text files with an empty cache, in this process, under a profile hook in all threads,
until `Stepper.take` of training/step.py first returns. The classifier of --predict is trained in another process.

A comprehension, generator expression or lambda that the body of a module or a class runs, as for a table, is no function here: it runs when
the file is imported, there is nothing to follow, and Python 3.12 has most of them as a part of the body itself.
"""

import argparse
import contextlib
import inspect
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent / "tfkit"
RECIPE = """\
model: {preset: gpt2, decoder_layers: 2, dim: 32, num_heads: 2, context_length: 32}
tokenizer: {kind: byte_bpe, vocab_size: 280}
data: {train: [{path: 'c/*.txt'}]}
objective: {kind: causal_lm}
training: {steps: 2, batch_size: 4}
"""
WORDS = ["the", "cat", "dog", "sat", "ran", "on", "a", "mat", "hat", "and", "fast", "slow", "big", "small", "red", "blue"]
_STEP = os.path.join("training", "step.py")
_PARTS = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>", "<lambda>"})  # of the function or body that runs them


class Seen:
    """A profile hook that notes the files whose functions run, until the first step is taken."""

    def __init__(self, *, until_step: bool = True) -> None:
        self.files: set[str] = set()
        self.is_done, self.until_step = False, until_step

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Note the file of a function that is called."""
        if self.is_done:
            return
        code = frame.f_code
        if event == "call" and _is_function(frame):
            self.files.add(code.co_filename)
        elif self.until_step and event == "return" and code.co_name == "take" and code.co_filename.endswith(_STEP):
            self.is_done = True


def _is_function(frame: FrameType | None) -> bool:
    """Whether a frame is of a function, or of a part of one, and not of the body of a module or a class, or of a part of that."""
    while frame is not None and frame.f_code.co_name in _PARTS:
        frame = frame.f_back
    return frame is not None and bool(frame.f_code.co_flags & inspect.CO_OPTIMIZED)


def files_before_step() -> list[str]:
    """Return the files before the first step, relative to the package, in alphabetical order."""
    return _files(Seen(), [], ["pretrain", "r.yaml", "--run", "R", "--quiet"])


def files_of_predict() -> list[str]:
    """Return the files of a prediction."""
    decided = ["model={}", "tokenizer={}", "objective={kind: classification}", "data.train=[{path: r.csv}]"]
    trained = ["finetune", "r.yaml", "--from", "B", "--run", "R", "--quiet", *decided]
    before = [["pretrain", "r.yaml", "--run", "B", "--quiet"], trained]
    return _files(Seen(until_step=False), before, ["predict", "--from", "R", "--data", "r.csv", "--out", "out.csv"])


def _files(seen: Seen, before: list[list[str]], words: list[str]) -> list[str]:
    """Return the files of which a function runs in a command; those `before` it run in processes of their own."""
    from tfkit.__main__ import main

    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        os.environ["TFKIT_CACHE"] = str(Path(folder) / "cache")
        os.chdir(folder)
        Path("c").mkdir()
        dice = random.Random(1)
        for number in range(4):
            Path("c", f"{number}.txt").write_text(" ".join(dice.choice(WORDS) for _ in range(3000)), encoding="utf-8")
        Path("r.yaml").write_text(RECIPE, encoding="utf-8")
        Path("r.csv").write_text("text,label\n" + "the cat sat,one\na dog ran fast,two\n" * 20, encoding="utf-8")
        for other in before:
            subprocess.run([sys.executable, "-m", "tfkit", *other], check=True, stdout=sys.stderr)
        threading.setprofile(seen)
        sys.setprofile(seen)
        try:
            code = main(words)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
            os.chdir(home)
    assert code == 0
    assert seen.is_done or not seen.until_step, "the training must take its first step"
    paths = (Path(name) for name in seen.files)
    return sorted(str(path.relative_to(PACKAGE)) for path in paths if path.is_relative_to(PACKAGE))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="the list of files, as JSON")
    parser.add_argument("--predict", action="store_true", help="the files of a prediction instead")
    arguments = parser.parse_args()
    found = files_of_predict() if arguments.predict else files_before_step()
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        lines = sum(len((PACKAGE / name).read_text(encoding="utf-8").splitlines()) for name in found)
        print(f"{len(found)} files, {lines:,} lines")
        for package, count in Counter(name.partition("/")[0] for name in found).most_common():
            print(f"{count:4}  {package}")
