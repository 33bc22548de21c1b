"""tfkit pretrain on labelled rows: transformers opens the checkpoints and answers as they were scored; names of classes; limits."""

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from answer_runs import KINDS
from tiny_files import read_json, read_rows
from tiny_runs import evaluate, pretrain, records
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer, OpenAIGPTDoubleHeadsModel

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


def test_names_of_classes_survive_loading_and_saving(answers: Path) -> None:
    """Also of one that no row has, and in the order of the recipe."""
    names, run = ("green", "Straße", "red", "blue", "🙂"), Path("run").absolute()
    objective = json.dumps({"kind": "classification", "labels": names}, ensure_ascii=False)
    with contextlib.chdir(answers):
        pretrain(run, Path("classes.yaml"), "training.steps=1", f"objective={objective}").exits(0)
    loaded = tfkit.load("run")
    assert (loaded.labels, read_json(loaded.folder / "tfkit.json")["labels"]) == (names, [*names])
    loaded.save("again")
    assert tfkit.load("again").labels == names
    assert AutoModelForSequenceClassification.from_pretrained("again").config.id2label == dict(enumerate(names))


@pytest.mark.parametrize(("kind", "most", "named"), [("classes", 1, "a"), ("classes", 100_000, "ab"), ("choices", 400, "ab")])
def test_max_tokens_holds_for_all_sets_together_in_a_training_and_in_evaluate(answers: Path, kind: str, most: int, named: str) -> None:
    """One batch is judged at least, and one row of a further set if any of evaluation.max_tokens remain, though fewer than its tokens."""
    run, columns = Path("run").absolute(), KINDS[kind][2]
    validation = ", ".join(f"{{path: {file}.jsonl, name: {name}, columns: {columns}}}" for name, file in (("a", "test"), ("b", "train")))
    words = ["training.steps=1", f"evaluation.max_tokens={most}", f"data.validation=[{validation}]"]
    with contextlib.chdir(answers):
        pretrain(run, Path(f"{kind}.yaml"), *words).exits(0)
        (scores,) = (record["evaluation"] for record in records(run) if "evaluation" in record)
        assert {name.partition(".")[0] for name in scores if "." in name} == {*named}
        if named == "ab":
            found = evaluate(Path(), "--from", run, "--json").exits(0).document["metrics"]
            assert {metric: found[metric] for metric in scores} == pytest.approx(scores, rel=1e-5)
