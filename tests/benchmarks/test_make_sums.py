"""benchmarks/make_sums.py: the rows of grpo-sums are right, and no held-out one is in a text or a prompt of the training."""

from pathlib import Path

from make_sums import COPIES, HELD_OUT, RIGHT, make
from tiny_files import read_rows


def test_the_rows_of_the_sums(tmp_path: Path) -> None:
    make(tmp_path)
    text, train, test = (read_rows(tmp_path / f"{name}.jsonl") for name in ("text", "train", "test"))
    answers = {row["prompt"]: row["answer"] for row in (*train, *test)}
    assert all(sum(map(int, prompt.rstrip("=").split("+"))) == int(answer) for prompt, answer in answers.items())
    said = [row["text"].partition("=") for row in text]
    assert {f"{asked}=" for asked, _, _ in said} == {row["prompt"] for row in train}
    assert len(test) == HELD_OUT
    assert {row["prompt"] for row in test}.isdisjoint(row["prompt"] for row in train)
    assert len(text) == COPIES * len(train)
    assert abs(sum(answers[f"{asked}="] == given for asked, _, given in said) / len(said) - RIGHT) < 0.02
