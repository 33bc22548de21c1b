"""tfkit check --ranks: what cannot be dealt evenly is a problem at its field, and the sizes that it names can be dealt."""

import json
from pathlib import Path

import pytest

from tfkit.__main__ import main

RECIPE = "model: {preset: gpt2}\ndata: {train: [{stdlib: true}]}\ntraining: {steps: 3, batch_size: 32}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("words", "ranks"),
    [
        ([], 32),
        (["training.micro_batch_size=4"], 8),
        (["training.batch_ramp={start: 8, tokens: 1000}"], 8),
        (["training.batch_ramp={start: 8, tokens: 1000}", "training.micro_batch_size=2"], 4),
    ],
)
def test_work_that_divides(path: Path, words: list[str], ranks: int) -> None:
    assert main(["check", str(path), *words, "--ranks", str(ranks)]) == 0


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
def test_work_that_does_not_divide_and_the_remedies_that_are_named(
    path: Path, words: list[str], ranks: int, field: str, advice: str, remedies: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    check = ["check", str(path), "--json", "--ranks", str(ranks), *(f"training.{word}" for word in words)]
    assert main(check) == 2
    (problem,) = json.loads(capsys.readouterr().out)["errors"]
    assert problem["path"] == field
    assert f"among {ranks} ranks" in problem["message"]
    assert advice in problem["message"]
    for remedy in remedies:
        assert main([*check, f"training.{remedy}"]) == 0


def test_the_place_is_that_of_the_field(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(path), "--ranks", "5"]) == 2
    assert capsys.readouterr().err.startswith(f"{path}:3:34: training.batch_size: 32 rows cannot be divided evenly among 5 ranks")


def test_responses_are_dealt_too(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["objective.prompts=3", "objective.completions=8", "training.batch_size=24", "training.micro_batch_size=null"]
    recipe = ["check", "grpo-sums", *words, "--json"]
    main([*recipe, "--ranks", "8"])
    assert "responses of an iteration cannot" not in capsys.readouterr().out
    assert main([*recipe, "--ranks", "16"]) == 2
    assert "24 responses of an iteration cannot be divided evenly among 16 ranks: the nearest possible sizes are 16 and 32" in (
        capsys.readouterr().out
    )


def test_each_stage_of_a_chain_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chain.yaml"
    stage = "{model: {preset: gpt2}, data: {train: [{stdlib: true}]}, training: {steps: 3, batch_size: SIZE}}"
    path.write_text(f"stages:\n  a: {stage.replace('SIZE', '8')}\n  b: {stage.replace('SIZE', '6')}\n", encoding="utf-8")
    assert main(["check", str(path), "--ranks", "4"]) == 2
    assert "b.training.batch_size: 6 rows cannot be divided evenly among 4 ranks" in capsys.readouterr().err
    assert main(["check", str(path), "--ranks", "2"]) == 0
