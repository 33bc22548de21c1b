"""A folder with tiny models and rows for every objective, which the tests of plans share."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_plans import DECODER, ROW_OBJECTIVES, rows_of
from tiny_runs import write_corpus

import tfkit


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with rows for each objective, a language model, a reward model and a classifier."""
    folder = tmp_path_factory.mktemp("plans")
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    corpus = write_corpus(folder / "corpus")
    words = corpus.joinpath("0.txt").read_text(encoding="utf-8").split()
    for name in ROW_OBJECTIVES:
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of(name, words)), encoding="utf-8")
    short: dict[str, Any] = {"training": {"steps": 1, "batch_size": 4, "precision": "fp32"}, "carbon": {"enabled": False}}
    base = {"model": DECODER, "tokenizer": {"vocab_size": 300}, "data": {"train": [{"path": "corpus"}]}, **short}
    tfkit.pretrain(base, run="base", threads=1)
    for kind, name in (("reward", "scores"), ("classification", "judge")):
        recipe = {"data": {"train": [{"path": f"{kind}.jsonl"}]}, "objective": {"kind": kind}, **short}
        tfkit.finetune(recipe, start="base", run=name, threads=1)
    patch.undo()
    return folder
