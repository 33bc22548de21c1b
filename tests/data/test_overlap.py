"""Held-out rows that are trained on, too, are counted and told: of text, and of labelled rows."""

import json
from pathlib import Path

import pytest
from tiny_runs import WORDS, pretrain

RECIPE = """
model: {preset: gpt2, decoder_layers: 1, dim: 8, num_heads: 1, context_length: 16}
tokenizer: {vocab_size: 300}
data: {train: [{path: one.jsonl}, {path: two.jsonl}], validation: [{path: three.jsonl}]}
training: {steps: 1, batch_size: 2, precision: fp32}
carbon: {enabled: false}
"""


def write(path: Path, numbers: range, label: str = "no") -> None:
    rows = [{"text": f"{' '.join(WORDS)} {number}", "label": label if number % 2 else "yes"} for number in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    write(tmp_path / "one.jsonl", range(20))
    write(tmp_path / "two.jsonl", range(30, 50))
    write(tmp_path / "three.jsonl", range(15, 33), label="maybe")  # 5 and 3 of its 18 texts


@pytest.mark.parametrize("words", [[], ["objective={kind: classification, labels: [no, yes, maybe]}"]])
def test_a_run_tells_of_held_out_rows_that_it_trains_on(tmp_path: Path, words: list[str]) -> None:
    done = pretrain(tmp_path / "run", tmp_path / "recipe.yaml", *words)
    assert done.code == 0, done.err
    assert "three.jsonl: 8 of 18 held-out rows are among those that are trained on" in done.err
    write(tmp_path / "three.jsonl", range(20, 30))
    done = pretrain(tmp_path / "clean", tmp_path / "recipe.yaml", *words)
    assert done.code == 0, done.err
    assert "trained on" not in done.err
