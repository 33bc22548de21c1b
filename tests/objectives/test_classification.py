"""Sequence classification against transformers' own loss and batches, and the property that micro-batches do not matter."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from sklearn.utils.class_weight import compute_class_weight
from tiny_examples import ENCODER, assert_figures, assert_judged, batch_of, judged, model, opened, stored, texts, tokenizer, whole_batch
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
    batch = batch_of(tmp_path, ROWS, objective)
    theirs = opened(tmp_path / "model", AutoModelForSequenceClassification, ours, TOKENIZER)
    codec = AutoTokenizer.from_pretrained(tmp_path / "model")
    padded = codec.pad([codec(row["text"], row.get("pair"), truncation=True, max_length=24) for row in ROWS], return_tensors="pt")
    assert batch.input_ids.tolist() == padded["input_ids"].tolist()
    assert batch.padding_mask.tolist() == padded["attention_mask"].bool().tolist()
    assert batch.segment_ids.tolist() == padded["token_type_ids"].tolist()
    with torch.no_grad():
        output = theirs(**padded, labels=batch.labels)
    assert_judged(ours, objective, batch, output.loss, output.logits, "accuracy")


def test_balanced_classes_are_those_of_scikit_learn_and_pytorch(tmp_path: Path) -> None:
    """Of 16 rows, 1 is yes and 12 are no: this is reported. Only the training loss is weighted, neither the examples nor their cache."""
    rows = [row | {"label": LABELS[(i > 11) + (i > 12)]} for i, row in enumerate(ROWS)]
    plain, weighted, ours = classification(), classification(class_weights="balanced"), model(CONFIG).eval()
    assert plain.fingerprint() == weighted.fingerprint()
    found = stored(tmp_path, rows, plain)
    weighted.prepare([(found, 1.0)])
    batch = whole_batch(found, weighted)
    weights = compute_class_weight("balanced", classes=np.arange(3), y=[LABELS.index(row["label"]) for row in rows])
    with torch.no_grad():
        logits = ours(**batch.inputs()).logits
        expected = torch.nn.functional.cross_entropy(logits, batch.labels, torch.tensor(weights, dtype=torch.float32))
        assert weighted.loss(ours, batch)["classes"] / 16 == pytest.approx(float(expected), rel=1e-5)  # the weights of all rows sum to 16
        assert weighted.measure(ours, batch) == plain.measure(ours, batch)
    for objective, hint in (
        (plain, "objective.class_weights=balanced gives their rows such weights that all classes count the same"),
        (weighted, "the loss weights rows so that all classes count the same"),
    ):
        assert objective.notes([found]) == [f"the classes are unequal: 'no' has 12 rows, 'yes' 1; {hint}"]
    assert not plain.notes([stored(tmp_path, ROWS, plain)])


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
    parts = [[{"text": f"{number} {i}", "label": LABELS[of]} for i, of in enumerate(labels)] for number, (labels, _) in enumerate(sources)]
    sets = [(stored(tmp_path, rows, objective), weight) for rows, (_, weight) in zip(parts, sources, strict=True)]
    objective.prepare(sets)
    rows = ExampleRows(sets, 1, batch_size=2)
    numbers = rows.order(epoch)
    read = objective.collate(rows.gather(np.full(len(numbers), epoch), numbers)).labels
    assert len(read) == sum(len(labels) * weight for labels, weight in sources)
    weights = objective._weights[read].double()
    assert weights.mean() == pytest.approx(1, rel=1e-6)
    sums = [float(weights[read == label].sum()) for label in set(read.tolist())]
    assert sums == pytest.approx([len(read) / len(sums)] * len(sums), rel=1e-6)


def test_balanced_classes_of_a_random_part_are_balanced_on_average(tmp_path: Path) -> None:
    objective = classification(class_weights="balanced")
    labels = [[0] * 10 + [1] * 7 + [2] * 3, [2] * 12 + [1] * 7 + [0]]
    rows = [[{"text": f"{k} {i}", "label": LABELS[label]} for i, label in enumerate(part)] for k, part in enumerate(labels)]
    sets = [(stored(tmp_path, part, objective), weight) for part, weight in zip(rows, (0.3, 1.6), strict=True)]
    objective.prepare(sets)
    order = ExampleRows(sets, 1, batch_size=2)
    read = torch.tensor([*labels[0], *labels[1]])[np.concatenate([order.order(epoch) for epoch in range(4000)])]
    weights = objective._weights[read].double()
    parts = [float(weights[read == label].sum() / len(read)) for label in range(3)]
    assert parts == pytest.approx([1 / 3] * 3, rel=0.01)


def test_regression_is_the_mean_squared_error(tmp_path: Path) -> None:
    objective, ours = classification((), regression=True), model(CONFIG | {"head": HEAD | {"count": 1}}).eval()
    batch = batch_of(tmp_path, [row | {"label": i / 7} for i, row in enumerate(ROWS)], objective)
    assert batch.labels.tolist() == pytest.approx([i / 7 for i in range(16)], abs=1e-6)
    with torch.no_grad():
        mean = float(((ours(**batch.inputs()).logits[:, 0] - batch.labels) ** 2).double().mean())
    assert judged(ours, objective, batch)[1] == {"loss": pytest.approx(mean, rel=1e-5), "rmse": pytest.approx(mean**0.5, rel=1e-5)}


@pytest.mark.parametrize("label", ["x", "nan", "-inf", "infinity", "1_5", "0x10", "3.5e38", "1e999", "1,5", "1 5", "١٥", "."])
def test_a_label_that_is_no_class_or_no_number_is_named_with_its_row(tmp_path: Path, label: str) -> None:
    rows = [{"text": "the cat", "label": -2147}, {"text": "the cat", "label": label}]
    with pytest.raises(DataError, match=rf"rows.jsonl:2: the label '{re.escape(label)}' is not a number up to 3.4e\+38; correct the row"):
        batch_of(tmp_path, rows, classification((), regression=True))
    with pytest.raises(DataError, match=rf"rows.jsonl:17: the label '{re.escape(label)}' is none of no, yes, maybe"):
        batch_of(tmp_path, [*ROWS, rows[1]], classification())


NUMBERS = {"1e-8": 1e-8, "0.30000001": 0.30000001, " 1.5 ": 1.5, "1e-3": 1e-3, "-2": -2.0, "+.5": 0.5, "3.": 3.0}
NUMBERS |= {"16777217": 16777217.0, "-3.4e38": -3.4e38}


def test_the_numbers_of_a_regression_are_those_that_are_given_in_float32(tmp_path: Path) -> None:
    rows = [{"text": "the cat", "label": label} for label in NUMBERS]
    labels = batch_of(tmp_path, rows, classification((), regression=True)).labels
    assert labels.dtype == torch.float32
    assert labels.numpy().tobytes() == np.array([*NUMBERS.values()], np.float32).tobytes()


def test_long_texts_are_cut_before_what_the_template_puts_behind_them(tmp_path: Path) -> None:
    objective = classification(length=6)
    found = stored(tmp_path, ROWS, objective)
    assert int(found.lengths.max()) == 6
    assert 0 < found.truncated < 16
    for number, row in enumerate(ROWS):
        ids = found[number]["input_ids"].tolist()
        assert (ids[0], ids[-1], ids.count(TOKENIZER.sep_id)) == (TOKENIZER.cls_id, TOKENIZER.sep_id, 2 if "pair" in row else 1)


@pytest.mark.parametrize(("length", "rows"), [(2, ROWS), (4, ROWS[1:2])])
def test_a_context_without_room_for_text_is_refused(tmp_path: Path, length: int, rows: list[dict[str, Any]]) -> None:
    """Four tokens have room for two of a text, but not for one of each text of a pair: [CLS] first [SEP] second [SEP]."""
    with pytest.raises(ModelError, match=rf"rows of {length} tokens have no room for text"):
        batch_of(tmp_path, rows, classification(length=length))


def test_figures_of_classes_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(5)
    right, predicted = (random.choice(LABELS, 60, p=p).tolist() for p in ((0.6, 0.3, 0.1), (0.5, 0.5, 0)))
    found = classification().label_metrics([{"label": one, "predicted": other} for one, other in zip(right, predicted, strict=True)])
    theirs = sklearn_metrics.classification_report(right, predicted, labels=LABELS, output_dict=True, zero_division=0)
    assert_figures(found["classes"], theirs, *LABELS)
    assert found["classes"]["maybe"]["precision"] == 0.0  # never predicted
    matrix = sklearn_metrics.confusion_matrix(right, predicted, labels=LABELS)
    assert [[found["confusion"][one].get(other, 0) for other in LABELS] for one in LABELS] == matrix.tolist()
    assert all(count for row in found["confusion"].values() for count in row.values())  # no zeros


def test_figures_are_of_only_the_classes_that_are_there() -> None:
    """A class that is neither a label nor a prediction has no metrics; one that is only predicted has no row in the confusion matrix."""
    found = classification().label_metrics([{"label": "yes", "predicted": "no"}, {"label": "yes", "predicted": "yes"}])
    never, once = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}, {"precision": 1.0, "recall": 0.5, "support": 2}
    assert found["classes"] == {"no": never, "yes": once | {"f1": pytest.approx(2 / 3)}}
    assert found["confusion"] == {"yes": {"no": 1, "yes": 1}}
    assert classification(labels=(), regression=True).label_metrics([{"value": 1.0, "predicted": 0.5}]) == {}
