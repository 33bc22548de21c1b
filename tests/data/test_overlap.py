"""Held-out rows that are trained on, too, are counted and reported: of text, and of labelled rows."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_files import write_rows
from tiny_runs import WORDS, pretrain, run_tfkit

RECIPE = """
model: {preset: gpt2, decoder_layers: 1, dim: 8, num_heads: 1, context_length: 16}
tokenizer: {vocab_size: 300}
data: {train: [{path: one.jsonl}, {path: two.jsonl}], validation: [{path: three.jsonl}]}
training: {steps: 1, batch_size: 2, precision: fp32}
carbon: {enabled: false}
"""


def write(path: Path, numbers: range, label: str = "no") -> None:
    rows = [{"text": f"{' '.join(WORDS)} {number}", "label": label if number % 2 else "yes"} for number in numbers]
    write_rows(path, rows)


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    write(tmp_path / "one.jsonl", range(20))
    write(tmp_path / "two.jsonl", range(30, 50))
    write(tmp_path / "three.jsonl", range(15, 33), label="maybe")  # 5 and 3 of its 18 texts


@pytest.mark.parametrize("words", [[], ["objective={kind: classification, labels: [no, yes, maybe]}"]])
def test_a_run_reports_held_out_rows_that_it_trains_on(tmp_path: Path, words: list[str]) -> None:
    done = pretrain(tmp_path / "run", tmp_path / "recipe.yaml", *words).exits(0)
    assert "three.jsonl: 8 of 18 held-out rows are among those that are trained on" in done.err
    write(tmp_path / "three.jsonl", range(20, 30))
    done = pretrain(tmp_path / "clean", tmp_path / "recipe.yaml", *words).exits(0)
    assert "trained on" not in done.err


@pytest.mark.parametrize("words", [[], ["objective={kind: classification, labels: [no, yes, maybe]}"]])
def test_evaluate_reports_which_of_its_rows_the_run_was_trained_on(tmp_path: Path, words: list[str]) -> None:
    assert pretrain(tmp_path / "run", tmp_path / "recipe.yaml", *words, "data.validation=null").code == 0

    def evaluated(*more: str) -> tuple[dict[str, Any], str]:
        done = run_tfkit(tmp_path, ["evaluate", "--from", "run", "--data", "three.jsonl", "--json", "--threads", "1", *more]).exits(0)
        return done.document, done.err

    result, said = evaluated()
    assert (result["trained_on"], result["examples"]) == (8, 18)
    assert "8 of the 18 texts that were scored are among those that the run was trained on" in said
    result, _ = evaluated("evaluation.max_tokens=1")
    assert (result["trained_on"], result["examples"]) == (1, 1)
    for file in (tmp_path / "cache").rglob("texts.bin"):
        if file.stat().st_size == 20 * 8:  # the hashes of a training file
            file.write_bytes(bytes(20 * 8))
    assert evaluated()[0]["trained_on"] == 8, "hashes that are damaged are not counted"
    shutil.rmtree(tmp_path / "cache")
    assert evaluated()[0]["trained_on"] == 8, "from the run's own files"
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "two.jsonl").unlink()
    result, said = evaluated()
    assert (result["trained_on"], "trained on" in said) == (None, False)
