"""Multi-label classification against transformers' own loss and scikit-learn's metrics; the forms of labels in rows; micro-batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, precision_recall_fscore_support, precision_score, recall_score
from tiny_examples import ENCODER, TWO_LAYERS, batch_of, judged, model, opened, stored, texts, tokenizer
from tiny_layouts import LLAMA_LAYOUT
from transformers import AutoModelForSequenceClassification

from tfkit.data.columns.rows import find_labels
from tfkit.data.sources.open_sources import open_source
from tfkit.errors import DataError
from tfkit.hub import load
from tfkit.objectives.metrics import unit_weights
from tfkit.objectives.metrics.classes import label_set_figures, label_set_metrics
from tfkit.objectives.multi_label import MultiLabel
from tfkit.objectives.objective import Sum
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.label_sections import MultiLabelSection

LABELS = ("animal", "clothes", "motion", "size")
CONFIG = ENCODER | {"head": {"kind": "classes", "count": 4, "pool": "first", "dense": "tanh", "bias": True}}
LLAMA: dict[str, Any] = LLAMA_LAYOUT | TWO_LAYERS | {"head": {"kind": "classes", "count": 4, "pool": "last"}}
TOKENIZER = tokenizer()
random = np.random.default_rng(7)
ROWS: list[dict[str, Any]] = [
    {"text": text, "labels": [label for label in LABELS if random.random() < 0.4], **({"pair": other} if i % 2 else {})}
    for i, (text, other) in enumerate(zip(texts(16), texts(16, seed=2), strict=True))
]
assert any(not row["labels"] for row in ROWS)


def multi_label(**section: Any) -> MultiLabel:
    return MultiLabel(MultiLabelSection(kind="multi_label", **section), TOKENIZER, LABELS, 24, None)


@pytest.mark.parametrize("config", [CONFIG, LLAMA], ids=["bert", "llama"])
def test_logits_and_loss_are_those_of_transformers_which_knows_the_labels(tmp_path: Path, config: dict[str, Any]) -> None:
    objective, ours = multi_label(), model(config).eval()
    batch = batch_of(tmp_path, ROWS if config is CONFIG else [{**row, "pair": None} for row in ROWS], objective)
    facts = {"labels": LABELS, "problem_type": objective.section.problem_type}
    theirs = opened(tmp_path / "model", AutoModelForSequenceClassification, ours, TOKENIZER, **facts)
    assert theirs.config.problem_type == "multi_label_classification"
    segments = {} if batch.segment_ids is None else {"token_type_ids": batch.segment_ids}
    with torch.no_grad():
        output = theirs(input_ids=batch.input_ids, attention_mask=batch.padding_mask.long(), labels=batch.labels, **segments)
        torch.testing.assert_close(ours(**batch.inputs()).logits, output.logits, atol=1e-4, rtol=0)
        results = list(objective.predict(ours, batch))
    loss, metrics = judged(ours, objective, batch)
    torch.testing.assert_close(loss, output.loss, atol=1e-5, rtol=0)
    applies = output.logits > 0
    exact = float((applies == batch.labels.bool()).all(1).double().mean())
    assert metrics == {"loss": pytest.approx(float(output.loss), abs=1e-5), "exact_match": exact}
    for row, result, mine, probabilities in zip(ROWS, results, applies.tolist(), output.logits.sigmoid().tolist(), strict=True):
        predicted = [label for label, one in zip(LABELS, mine, strict=True) if one]
        assert (result.prediction["labels"], result.prediction["predicted"]) == (row["labels"], predicted)
        assert result.prediction["probabilities"].by_label() == pytest.approx(dict(zip(LABELS, probabilities, strict=True)), abs=1e-4)
    means = {name: sum((result.sums[name] for result in results), Sum(0.0, 0)).mean for name in results[0].sums}
    assert means == {"labels": pytest.approx(float(output.loss), abs=1e-5), "exact_match": exact}
    theirs.save_pretrained(tmp_path / "theirs")
    again = load(tmp_path / "theirs")
    assert (again.labels, again.problem_type) == (LABELS, "multi_label_classification")


def test_metrics_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(3)
    right, predicted = random.random((40, 5)) < 0.3, random.random((40, 5)) < 0.3
    right[:, 4] = predicted[:, 4] = False  # a label that is nowhere
    drawn = random.integers(0, 4, 40)
    sets = [[np.flatnonzero(row).tolist() for row in rows] for rows in (right, predicted)]
    scores = label_set_metrics(*sets, 5)
    for weights in (unit_weights(40), drawn.astype(float)):
        rows = np.repeat(np.arange(40), weights.astype(int))
        pair = right[rows], predicted[rows]
        assert scores(weights) == {
            "f1_micro": pytest.approx(f1_score(*pair, average="micro", zero_division=0)),
            "f1_macro": pytest.approx(f1_score(*pair, average="macro", zero_division=0)),
            "precision": pytest.approx(precision_score(*pair, average="micro", zero_division=0)),
            "recall": pytest.approx(recall_score(*pair, average="micro", zero_division=0)),
        }
    assert set(label_set_metrics([[], []], [[], []], 3)(unit_weights(2)).values()) == {0.0}
    found = label_set_figures(*sets, ["a", "b", "c", "d", "e"])
    precision, recall, f1, support = precision_recall_fscore_support(right[:, :4], predicted[:, :4])
    assert [*found["classes"]] == ["a", "b", "c", "d"]  # e is nowhere
    for number, of_label in enumerate(found["classes"].values()):
        wanted = {"precision": precision[number], "recall": recall[number], "f1": f1[number], "support": support[number]}
        assert of_label == pytest.approx(wanted)


WRITTEN = {
    "a list": ({}, [{"labels": ["size", "animal"]}, {"labels": []}, {"labels": None}]),
    "a text": ({}, [{"labels": "size| animal"}, {"labels": ""}, {"labels": "|"}]),
    "a delimiter of its own": ({"delimiter": " and "}, [{"labels": "size and animal"}, {"labels": ""}, {"labels": " "}]),
    "an object": ({}, [{"labels": dict.fromkeys(LABELS, 0) | {"size": 1, "animal": True}}, *[{"labels": {"size": 0, "motion": "0"}}] * 2]),
}


@pytest.mark.parametrize(("section", "rows"), WRITTEN.values(), ids=WRITTEN)
def test_the_labels_of_a_row_in_every_form(tmp_path: Path, section: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    batch = batch_of(tmp_path, [{"text": "the cat", **row} for row in rows], multi_label(**section))
    assert batch.labels.tolist() == [[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(("no", "yes"), [("0", "1"), ("False", "True"), ("0.0", "1.0")])
def test_columns_of_zeros_and_ones_are_labels_of_their_names_also_of_those_that_no_row_has(tmp_path: Path, no: str, yes: str) -> None:
    path, section = tmp_path / "rows.csv", MultiLabelSection(kind="multi_label")
    rows = ["text,animal,motion,size", f"the cat,{yes},{no},{no}", f"the hat,{no},{no},{no}", f"the big dog,{yes},{no},{yes}"]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")

    def of_columns(*names: str) -> Any:
        return open_source(SourceSection(path=str(path), columns={"labels": [*names]}), "all", None, roles=MultiLabelSection.roles)

    source = of_columns("animal", "motion", "size")
    assert find_labels([source], section.labels_in) == ["animal", "motion", "size"]
    found = [section.labels_in(row.values["labels"]) for row in source.rows()]
    assert [[name for name, applies in one.items() if applies] for one in found] == [["animal"], [], ["animal", "size"]]
    assert next(iter(of_columns("text", "motion").rows())).values["labels"] == ["the cat", no]


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        (["size", "colour"], r"rows.jsonl:17: the label 'colour' is none of animal, clothes, motion, size; correct the row"),
        ({"": 1}, r"rows.jsonl:17: the label '' is none of animal"),
        ([0, 0, 1, 0], r"rows.jsonl:17: column 'labels' holds a list of zeros and ones, which names no labels, not a list of labels"),
        ({"size": 1, "animal": None}, r"rows.jsonl:17: column 'labels' holds nothing for 'animal', not 0 or 1"),
        ({"size": [1]}, r"rows.jsonl:17: column 'labels' holds list for 'size', not 0 or 1, or a label"),
        ([["size"]], r"rows.jsonl:17: column 'labels' holds a list with list, not a list of labels"),
    ],
)
def test_what_names_no_known_labels_is_an_error_with_its_row(tmp_path: Path, labels: Any, error: str) -> None:
    with pytest.raises(DataError, match=error):
        stored(tmp_path, [*ROWS, {"text": "the cat", "labels": labels}], multi_label())


def test_a_probability_of_exactly_one_half_is_not_enough(tmp_path: Path) -> None:
    objective, undecided = multi_label(), model(CONFIG).eval()
    undecided.head.classes.requires_grad_(False).weight.zero_()
    undecided.head.classes.bias.zero_()
    batch = batch_of(tmp_path, ROWS, objective)
    with torch.no_grad():
        found = list(objective.predict(undecided, batch))
    assert {float(value) for row in found for value in row.prediction["probabilities"].values} == {0.5}
    assert all(row.prediction["predicted"] == [] for row in found)
