"""Sequence classification against transformers' own loss and batches, and the property that micro-batches do not matter."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from tiny_examples import ENCODER, assert_same_steps, batches, examples, model, opened, texts, tokenizer, whole_batch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tfkit.data import ExampleRows
from tfkit.errors import DataError, ModelError
from tfkit.objectives.classification import Classification
from tfkit.objectives.text_regression import Regression
from tfkit.recipe.schema.label_sections import ClassificationSection

LABELS = ("no", "yes", "maybe")
HEAD = {"kind": "classes", "count": 3, "pool": "first", "dense": "tanh", "bias": True}
CONFIG = ENCODER | {"head": HEAD}
TOKENIZER = tokenizer()
ROWS = [
    {"text": text, "label": LABELS[i % 3], **({"pair": other} if i % 2 else {})}
    for i, (text, other) in enumerate(zip(texts(16), texts(16, seed=2), strict=True))
]


def classification(labels: tuple[str, ...] = LABELS, length: int = 24, **fields: Any) -> Any:
    section = ClassificationSection(kind="classification", **fields)
    return Regression(section, TOKENIZER, length, None) if section.regression else Classification(section, TOKENIZER, labels, length, None)


def test_ids_segments_mask_and_loss_are_those_of_transformers(tmp_path: Path) -> None:
    objective, ours = classification(), model(CONFIG).eval()
    stored = examples(tmp_path, ROWS, ClassificationSection.roles, objective)
    batch = whole_batch(stored, objective)
    theirs = opened(tmp_path / "model", AutoModelForSequenceClassification, ours, TOKENIZER)
    codec = AutoTokenizer.from_pretrained(tmp_path / "model")
    encoded = [codec(row["text"], row.get("pair"), truncation=True, max_length=24) for row in ROWS]
    padded = codec.pad(encoded, return_tensors="pt")
    assert batch.input_ids.tolist() == padded["input_ids"].tolist()
    assert batch.padding_mask.tolist() == padded["attention_mask"].bool().tolist()
    assert batch.segment_ids.tolist() == padded["token_type_ids"].tolist()
    with torch.no_grad():
        loss = theirs(**padded, labels=batch.labels).loss
        found = objective.loss(ours, batch)["classes"] / objective.counts(batch)["classes"]
        predictions = theirs(**padded).logits.argmax(-1).tolist()
        sums = objective.measure(ours, batch)
    torch.testing.assert_close(found, loss, atol=1e-5, rtol=0)
    targets = batch.labels.tolist()
    right = sum(one == other for one, other in zip(predictions, targets, strict=True))
    assert sums["accuracy"] == (right, 16)
    metrics = objective.metrics(sums)
    assert metrics == {"loss": pytest.approx(float(loss), abs=1e-5), "accuracy": right / 16}


def test_balanced_classes_are_those_of_scikit_learn_and_pytorch(tmp_path: Path) -> None:
    """Of 16 rows, 1 is yes and 12 are no: this is reported, and only the training loss is weighted. The examples, and so the cache, do not
    depend on class_weights.
    """
    rows = [row | {"label": LABELS[(i > 11) + (i > 12)]} for i, row in enumerate(ROWS)]
    plain, weighted, ours = classification(), classification(class_weights="balanced"), model(CONFIG).eval()
    assert plain.fingerprint() == weighted.fingerprint()
    stored = examples(tmp_path, rows, ClassificationSection.roles, plain)
    weighted.prepare([(stored, 1.0)])
    (batch,) = batches(stored, weighted, 16, batch_size=16)
    weights = compute_class_weight("balanced", classes=np.arange(3), y=[LABELS.index(row["label"]) for row in rows])
    with torch.no_grad():
        logits = ours(**batch.inputs()).logits
        expected = torch.nn.functional.cross_entropy(logits, batch.labels, torch.tensor(weights, dtype=torch.float32))
        assert weighted.loss(ours, batch)["classes"] / 16 == pytest.approx(float(expected), rel=1e-5)  # the weights of all rows sum to 16
        assert weighted.measure(ours, batch) == plain.measure(ours, batch)
    unequal = "the classes are unequal: 'no' has 12 rows, 'yes' 1"
    hint = "objective.class_weights=balanced gives their rows such weights that all classes count the same"
    assert plain.notes([stored]) == [f"{unequal}; {hint}"]
    assert weighted.notes([stored]) == [f"{unequal}; the loss weights rows so that all classes count the same"]
    assert not plain.notes([examples(tmp_path, ROWS, ClassificationSection.roles, plain)])


SOURCES = st.lists(
    # whole passes of any rows, or a part of the rows of one class, of which every draw has as many
    st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.sampled_from([1.0, 2.0, 3.0, 10.0]))
    | st.tuples(st.integers(0, 2).flatmap(lambda label: st.just([label] * 4)), st.sampled_from([0.25, 0.5, 1.5, 2.75])),
    min_size=1,
    max_size=4,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SOURCES, st.integers(0, 3))
def test_balanced_classes_are_balanced_as_they_are_read(tmp_path: Path, sources: list[tuple[list[int], float]], epoch: int) -> None:
    """The weights of the labels that an epoch really reads have the mean 1, and each class that is read has an equal part of their sum."""
    objective = classification(class_weights="balanced")
    sets = []
    for number, (labels, weight) in enumerate(sources):
        rows = [{"text": f"{number} {i}", "label": LABELS[label]} for i, label in enumerate(labels)]
        sets.append((examples(tmp_path, rows, ClassificationSection.roles, objective), weight))
    objective.prepare(sets)
    rows = ExampleRows(sets, 1, batch_size=2)
    numbers = rows.order(epoch)
    read = objective.collate(rows.gather(np.full(len(numbers), epoch), numbers)).labels
    assert len(read) == sum(len(labels) * weight for labels, weight in sources)
    weights = objective._weights[read].double()
    assert weights.mean() == pytest.approx(1, rel=1e-6)
    parts = [float(weights[read == label].sum()) for label in set(read.tolist())]
    assert parts == pytest.approx([len(read) / len(parts)] * len(parts), rel=1e-6)


def test_balanced_classes_of_a_random_part_are_balanced_on_average(tmp_path: Path) -> None:
    objective = classification(class_weights="balanced")
    labels = [[0] * 10 + [1] * 7 + [2] * 3, [2] * 12 + [1] * 7 + [0]]
    rows = [[{"text": f"{k} {i}", "label": LABELS[label]} for i, label in enumerate(part)] for k, part in enumerate(labels)]
    sets = [
        (examples(tmp_path, part, ClassificationSection.roles, objective), weight) for part, weight in zip(rows, (0.3, 1.6), strict=True)
    ]
    objective.prepare(sets)
    order = ExampleRows(sets, 1, batch_size=2)
    read = torch.tensor([*labels[0], *labels[1]])[np.concatenate([order.order(epoch) for epoch in range(4000)])]
    weights = objective._weights[read].double()
    parts = [float(weights[read == label].sum() / len(read)) for label in range(3)]
    assert parts == pytest.approx([1 / 3] * 3, rel=0.01)


def test_regression_is_the_mean_squared_error(tmp_path: Path) -> None:
    objective, ours = classification((), regression=True), model(CONFIG | {"head": HEAD | {"count": 1}}).eval()
    stored = examples(tmp_path, [row | {"label": i / 7} for i, row in enumerate(ROWS)], ClassificationSection.roles, objective)
    (batch,) = batches(stored, objective, 8)
    with torch.no_grad():
        logits = ours(**batch.inputs()).logits[:, 0]
        sums = objective.measure(ours, batch)
    targets = sorted({round(7 * label) for label in batch.labels.tolist()})
    assert sorted(batch.labels.tolist()) == pytest.approx([i / 7 for i in targets], abs=1e-6)
    assert (len(targets), max(targets) < len(ROWS)) == (8, True)
    mean = float(((logits - batch.labels) ** 2).double().mean())
    assert objective.metrics(sums) == {"loss": pytest.approx(mean, rel=1e-5), "rmse": pytest.approx(mean**0.5, rel=1e-5)}


def test_a_label_that_is_none_of_those_known_is_named_with_its_row(tmp_path: Path) -> None:
    rows = [*ROWS, {"text": "the cat", "label": "perhaps"}]
    with pytest.raises(DataError, match=r"rows.jsonl:17: the label 'perhaps' is none of no, yes, maybe"):
        examples(tmp_path, rows, ClassificationSection.roles, classification())


NUMBERS = {
    "1e-8": 1e-8,
    "0.30000001": 0.30000001,
    " 1.5 ": 1.5,
    "1e-3": 1e-3,
    "-2": -2.0,
    "+.5": 0.5,
    "3.": 3.0,
    "16777217": 16777217.0,
    "-3.4e38": -3.4e38,
}


def test_the_numbers_of_a_regression_are_those_that_are_given_in_float32(tmp_path: Path) -> None:
    rows = [{"text": "the cat", "label": label} for label in NUMBERS]
    objective = classification((), regression=True)
    stored = examples(tmp_path, rows, ClassificationSection.roles, objective)
    assert [stored[i]["label"].tobytes() for i in range(len(stored))] == [np.float32(value).tobytes() for value in NUMBERS.values()]
    (batch,) = batches(stored, objective, len(NUMBERS), batch_size=len(NUMBERS))
    assert sorted(batch.labels.tolist()) == sorted(float(np.float32(value)) for value in NUMBERS.values())
    assert batch.labels.dtype == torch.float32


@pytest.mark.parametrize("label", ["x", "nan", "-inf", "infinity", "1_5", "0x10", "3.5e38", "1e999", "1,5", "1 5", "١٥", "."])
def test_a_label_that_is_no_number_is_named_with_its_row(tmp_path: Path, label: str) -> None:
    rows = [{"text": "the cat", "label": -2147}, {"text": "the cat", "label": label}]
    with pytest.raises(DataError, match=rf"rows.jsonl:2: the label '{re.escape(label)}' is not a number up to 3.4e\+38; correct the row"):
        examples(tmp_path, rows, ClassificationSection.roles, classification((), regression=True))


def test_long_texts_are_cut_before_what_the_template_puts_behind_them(tmp_path: Path) -> None:
    objective = classification(length=6)
    stored = examples(tmp_path, ROWS, ClassificationSection.roles, objective)
    assert int(stored.lengths.max()) == 6
    assert 0 < stored.truncated < 16
    for i in range(len(stored)):
        ids = stored[i]["input_ids"].tolist()
        assert (ids[0], ids[-1]) == (TOKENIZER.cls_id, TOKENIZER.sep_id)
        assert ids.count(TOKENIZER.sep_id) == (2 if "pair" in ROWS[i] else 1)


@pytest.mark.parametrize(("length", "rows"), [(2, ROWS), (4, ROWS[1:2])])
def test_a_context_without_room_for_text_is_refused(tmp_path: Path, length: int, rows: list[dict[str, Any]]) -> None:
    """Rows of four tokens have room for two tokens of a text, but not for one token of each text of a pair: [CLS] first [SEP] second
    [SEP].
    """
    with pytest.raises(ModelError, match=rf"rows of {length} tokens have no room for text"):
        examples(tmp_path, rows, ClassificationSection.roles, classification(length=length))


def test_losses_and_weights_do_not_depend_on_the_micro_batch(tmp_path: Path) -> None:
    objective = classification()
    stored = examples(tmp_path, ROWS, ClassificationSection.roles, objective)
    assert_same_steps(CONFIG, stored, objective)
