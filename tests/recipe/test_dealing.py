"""tfkit check --ranks: what cannot be dealt evenly is a problem at its field, and the sizes that it names can be dealt."""

from pathlib import Path

import pytest
from tiny_runs import run_here

STAGE = "{model: {preset: gpt2}, data: {train: [{stdlib: true}]}, training: {steps: 3, batch_size: SIZE}}"
RAMP = "training.batch_ramp={start: 8, tokens: 1000}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(STAGE.replace("SIZE", "32"), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("words", "ranks"), [([], 32), (["training.micro_batch_size=4"], 8), ([RAMP], 8), ([RAMP, "training.micro_batch_size=2"], 4)]
)
def test_work_that_divides(path: Path, words: list[str], ranks: int) -> None:
    run_here(["check", path, *words, "--ranks", ranks]).exits(0)


@pytest.mark.parametrize(
    ("words", "ranks", "field", "advice", "remedies"),
    [
        ([], 5, "training.batch_size", "the nearest possible sizes are 30 and 35", ["batch_size=30", "batch_size=35"]),
        ([], 64, "training.batch_size", "the smallest possible size is 64", ["batch_size=64"]),
        (["micro_batch_size=4"], 3, "training.batch_size", "the nearest possible sizes are 24 and 36", ["batch_size=24", "batch_size=36"]),
        (["micro_batch_size=4"], 16, "training.micro_batch_size", "take micro-batches of 2", ["micro_batch_size=2", "batch_size=64"]),
        (["batch_ramp={start: 8, tokens: 1000}"], 16, "training.batch_ramp.start", "possible size is 16", ["batch_ramp.start=16"]),
    ],
)
def test_uneven_work_and_its_remedies(path: Path, words: list[str], ranks: int, field: str, advice: str, remedies: list[str]) -> None:
    check = ["check", path, "--json", "--ranks", ranks, *(f"training.{word}" for word in words)]
    (problem,) = run_here(check).exits(2).document["errors"]
    assert problem["path"] == field
    assert words or (problem["line"], problem["column"]) == (1, 91)
    assert f"among {ranks} ranks" in problem["message"]
    assert advice in problem["message"]
    for remedy in remedies:
        run_here([*check, f"training.{remedy}"]).exits(0)


def test_responses_are_dealt_too() -> None:
    words = ["objective.prompts=3", "objective.completions=8", "training.batch_size=24", "training.micro_batch_size=null"]
    recipe = ["check", "grpo-sums", *words, "--ranks"]
    assert "responses of an iteration cannot" not in run_here([*recipe, 8]).err
    said = "24 responses of an iteration cannot be divided evenly among 16 ranks: the nearest possible sizes are 16 and 32"
    run_here([*recipe, 16]).exits(2, said)


def test_each_stage_of_a_chain_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "chain.yaml"
    path.write_text(f"stages:\n  a: {STAGE.replace('SIZE', '8')}\n  b: {STAGE.replace('SIZE', '6')}\n", encoding="utf-8")
    run_here(["check", path, "--ranks", 4]).exits(2, "b.training.batch_size: 6 rows cannot be divided evenly among 4 ranks")
    run_here(["check", path, "--ranks", 2]).exits(0)
