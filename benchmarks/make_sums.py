"""Write the rows of the recipes sums and grpo-sums: small additions, as texts that are often wrong, and as prompts with their answers.

    python benchmarks/make_sums.py data/sums

text.jsonl: each sum of the training part twenty times, right in two of five, else off by 1, 2 or 10. train.jsonl and test.jsonl: the
sums of each part once, `{"prompt": "17+25=", "answer": "42"}`. No sum of the test part is in a text.
"""

import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LARGEST, HELD_OUT, COPIES, RIGHT = 29, 100, 20, 0.4


def write(path: Path, rows: Iterable[Any]) -> None:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make(folder: Path) -> None:
    """Write the three files, the same on every machine."""
    draw = random.Random(1)
    pairs = [(a, b) for a in range(LARGEST + 1) for b in range(LARGEST + 1)]
    draw.shuffle(pairs)
    test, train = pairs[:HELD_OUT], pairs[HELD_OUT:]

    def said(a: int, b: int) -> int:
        return a + b if draw.random() < RIGHT else max(0, a + b + draw.choice([-10, -2, -1, 1, 2, 10]))

    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "text.jsonl", ({"text": f"{a}+{b}={said(a, b)}"} for _ in range(COPIES) for a, b in train))
    for name, part in (("train", train), ("test", test)):
        write(folder / f"{name}.jsonl", ({"prompt": f"{a}+{b}=", "answer": str(a + b)} for a, b in part))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
