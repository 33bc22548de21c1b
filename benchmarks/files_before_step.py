"""Count the files of tfkit of which a function runs before the first step of the smallest pretraining: the way that a reader follows.

    python benchmarks/files_before_step.py            # the number, and the files by package
    python benchmarks/files_before_step.py --json

It runs `tfkit pretrain r.yaml --run R` on four made text files with an empty cache, in this process, under a profile hook in all threads,
until `Stepper.take` of training/step.py first returns.
"""

import argparse
import contextlib
import inspect
import json
import os
import random
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


class Seen:
    """A profile hook that notes the files whose functions run, until the first step is taken."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.is_done = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Note the file of a function that is called."""
        if self.is_done:
            return
        code = frame.f_code
        if event == "call" and code.co_flags & inspect.CO_OPTIMIZED:  # a function, and not the body of a module or a class
            self.files.add(code.co_filename)
        elif event == "return" and code.co_name == "take" and code.co_filename.endswith(os.path.join("training", "step.py")):
            self.is_done = True


def files_before_step() -> list[str]:
    """Return the files, relative to the package, in alphabetical order."""
    from tfkit.__main__ import main

    seen, home = Seen(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        os.environ["TFKIT_CACHE"] = str(Path(folder) / "cache")
        os.chdir(folder)
        Path("c").mkdir()
        dice = random.Random(1)
        for number in range(4):
            Path("c", f"{number}.txt").write_text(" ".join(dice.choice(WORDS) for _ in range(3000)), encoding="utf-8")
        Path("r.yaml").write_text(RECIPE, encoding="utf-8")
        threading.setprofile(seen)
        sys.setprofile(seen)
        try:
            code = main(["pretrain", "r.yaml", "--run", "R", "--quiet"])
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
            os.chdir(home)
    assert (code, seen.is_done) == (0, True), "the training must take its first step"
    paths = (Path(name) for name in seen.files)
    return sorted(str(path.relative_to(PACKAGE)) for path in paths if path.is_relative_to(PACKAGE))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="the list of files, as JSON")
    arguments = parser.parse_args()
    found = files_before_step()
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        lines = sum(len((PACKAGE / name).read_text(encoding="utf-8").splitlines()) for name in found)
        print(f"{len(found)} files, {lines:,} lines")
        for package, count in Counter(name.partition("/")[0] for name in found).most_common():
            print(f"{count:4}  {package}")
