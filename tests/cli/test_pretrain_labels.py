"""tfkit pretrain on labelled rows: transformers opens the checkpoints and answers as they were scored; names of classes; limits."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from answer_runs import ENCODER, GPT, KINDS, REST, made_rows
from tiny_files import read_json, read_rows, write_rows
from tiny_runs import evaluate, pretrain, records
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    OpenAIGPTDoubleHeadsModel,
)

import tfkit

pytestmark = pytest.mark.usefixtures("in_tmp_path")

Scored = Sequence[float | bool]


def classes(theirs: Any, codec: Any, row: dict[str, Any]) -> Scored:
    logits = theirs(**codec(row["text"], return_tensors="pt")).logits
    return [theirs.config.id2label[int(logits.argmax())] == row["label"]]


def numbers(theirs: Any, codec: Any, row: dict[str, Any]) -> Scored:
    logits = theirs(**codec(row["text"], row["other"], return_tensors="pt")).logits
    return [(float(logits) - row["size"]) ** 2]


def sets(theirs: Any, codec: Any, row: dict[str, Any]) -> Scored:
    [logits] = theirs(**codec(row["text"], return_tensors="pt")).logits
    return [{theirs.config.id2label[i] for i, logit in enumerate(logits) if logit > 0} == {*row["kinds"]}]


def tags(theirs: Any, codec: Any, row: dict[str, Any]) -> Scored:
    encoded = codec(row["words"], is_split_into_words=True, return_tensors="pt")
    places, found = encoded.word_ids(), theirs(**encoded).logits[0].argmax(-1)
    return [theirs.config.id2label[int(found[places.index(number)])] == tag for number, tag in enumerate(row["names"])]


def choices(theirs: Any, codec: Any, row: dict[str, Any]) -> Scored:
    start, delimiter, classify = codec.convert_tokens_to_ids(["_start_", "_delimiter_", "_classify_"])
    context, *answers = (codec(row[name])["input_ids"] for name in ("text", "other", "third"))
    scores = [float(theirs(torch.tensor([[start, *context, delimiter, *one, classify]])).mc_logits) for one in answers]
    return [int(np.argmax(scores)) == row["right"]]


READ: dict[str, tuple[Any, Callable[..., Scored], str, str]] = {  # the class, a row's scores, the metric that is their mean, the stacks
    "classes": (AutoModelForSequenceClassification, classes, "accuracy", "encoder-only"),
    "numbers": (AutoModelForSequenceClassification, numbers, "loss", "encoder-only"),
    "sets": (AutoModelForSequenceClassification, sets, "exact_match", "encoder-only"),
    "tags": (AutoModelForTokenClassification, tags, "accuracy", "encoder-only"),
    "choices": (OpenAIGPTDoubleHeadsModel, choices, "accuracy", "decoder-only"),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", READ)
def test_transformers_answers_the_held_out_rows_as_the_training_scored_them(answers: Path, name: str) -> None:
    opened, scored, metric, stacks = READ[name]
    folder = tfkit.load(answers / name).folder
    theirs, codec = opened.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        found = [value for row in read_rows(answers / "test.jsonl") for value in scored(theirs, codec, row)]
    assert records(answers / name)[-1]["evaluation"][metric] == pytest.approx(np.mean(found), rel=1e-4)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert stacks in card
    assert f"transformers.{type(theirs).__name__}.from_pretrained" in card


def write_recipe(model: str, objective: str, sources: dict[str, str]) -> Path:
    """A recipe of one step on rows of `made_rows`, which are beside it."""
    for name, count in (("train", 40), ("test", 24)):
        write_rows(Path(f"{name}.jsonl"), made_rows(count))
    data = ", ".join(f"{part}: {listed}" for part, listed in sources.items())
    Path("tiny.yaml").write_text(f"# For a test.\n{model}\ndata: {{{data}}}\nobjective: {objective}{REST}", encoding="utf-8")
    return Path("tiny.yaml")


def test_names_of_classes_survive_loading_and_saving() -> None:
    """Also of one that no row has, and in the order of the recipe."""
    names = ("green", "Straße", "red", "blue", "🙂")
    listed = ", ".join(f"'{name}'" for name in names)
    recipe = write_recipe(ENCODER, f"{{kind: classification, labels: [{listed}]}}", {"train": "[{path: train.jsonl}]"})
    pretrain(Path("run"), recipe, "training.steps=1").exits(0)
    loaded = tfkit.load("run")
    assert (loaded.labels, read_json(loaded.folder / "tfkit.json")["labels"]) == (names, [*names])
    loaded.save("again")
    assert tfkit.load("again").labels == names
    assert AutoModelForSequenceClassification.from_pretrained("again").config.id2label == dict(enumerate(names))


@pytest.mark.parametrize(
    ("kind", "model", "most", "named"),
    [("classes", ENCODER, 1, "a"), ("classes", ENCODER, 100_000, "ab"), ("choices", GPT, 300, "ab")],
)
def test_max_tokens_holds_for_all_sets_together_in_a_training_and_in_evaluate(kind: str, model: str, most: int, named: str) -> None:
    """One batch is judged at least, and one row of a further set if any of evaluation.max_tokens remain, though fewer than its tokens."""
    _, objective, columns = KINDS[kind]
    validation = ", ".join(f"{{path: {file}.jsonl, name: {name}, columns: {columns}}}" for name, file in (("a", "test"), ("b", "train")))
    recipe = write_recipe(model, objective, {"train": f"[{{path: train.jsonl, columns: {columns}}}]", "validation": f"[{validation}]"})
    pretrain(Path("run"), recipe, "training.steps=1", f"evaluation.max_tokens={most}").exits(0)
    (scores,) = (record["evaluation"] for record in records(Path("run")) if "evaluation" in record)
    assert {name.partition(".")[0] for name in scores if "." in name} == {*named}
    if named == "ab":
        found = evaluate(Path(), "--from", "run", "--json").exits(0).document["metrics"]
        assert {metric: found[metric] for metric in scores} == pytest.approx(scores, rel=1e-5)
