"""A folder for runs on prompts: two files of prompts, a policy, and a judge that classifies texts; and what the log of a run has."""

from pathlib import Path
from typing import Any

from tiny_files import write_rows
from tiny_runs import pretrain, records, write_corpus, write_recipe


def steps(run: Path) -> list[dict[str, Any]]:
    """Return what the log has of each step."""
    return [record for record in records(run) if "loss" in record]


def evaluations(run: Path) -> dict[int, dict[str, float]]:
    """Return the scores by step."""
    return {record["step"]: record["evaluation"] for record in records(run) if "evaluation" in record}


def write_world(folder: Path) -> list[str]:
    """Train the policy `base` and the classifier `judge`; return the words of the corpus."""
    corpus = write_corpus(folder / "corpus")
    words = corpus.joinpath("0.txt").read_text(encoding="utf-8").split()
    for name, start in (("prompts", 0), ("others", 100)):
        write_rows(folder / f"{name}.jsonl", [{"prompt": " ".join(words[place : place + 3])} for place in range(start, start + 36, 3)])
    write_rows(folder / "labelled.jsonl", [{"text": " ".join(words[i : i + 4]), "label": ["no", "yes"][i % 2]} for i in range(40)])
    recipe = write_recipe(folder, corpus)
    pretrain(folder / "base", recipe, "training.steps=4").exits(0)
    given = ["objective={kind: classification}", f"data.train.0.path={folder}/labelled.jsonl", "training.steps=4"]
    pretrain(folder / "judge", recipe, *given, "training.seed=0").exits(0)
    return words
