"""Figures of each class, tag and entity type against scikit-learn's and seqeval's reports, and the confusion matrix."""

from typing import Any

import numpy as np
import pytest
import seqeval.metrics
from sklearn import metrics as sklearn_metrics
from test_classification import classification
from test_tagging import tagging

LABELS = ("no", "yes", "maybe")
FIGURES = ("precision", "recall", "f1", "support")


def report(found: dict[str, Any]) -> dict[str, list[float]]:
    """Return the rows of a report of scikit-learn or seqeval."""
    return {name: [one[key] for key in ("precision", "recall", "f1-score", "support")] for name, one in found.items()}


def figures(found: dict[str, Any]) -> dict[str, list[float]]:
    return {name: [one[key] for key in FIGURES] for name, one in found.items()}


def test_classes_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(5)
    right, predicted = (random.choice(LABELS, 60, p=p).tolist() for p in ((0.6, 0.3, 0.1), (0.5, 0.5, 0)))
    found = classification().label_metrics([{"label": one, "predicted": other} for one, other in zip(right, predicted, strict=True)])
    theirs = sklearn_metrics.classification_report(right, predicted, labels=LABELS, output_dict=True, zero_division=0)
    assert [*found["classes"]] == [*LABELS]  # in their order
    assert figures(found["classes"]) == {name: pytest.approx(row) for name, row in report({one: theirs[one] for one in LABELS}).items()}
    assert found["classes"]["maybe"]["precision"] == 0.0  # never predicted
    matrix = sklearn_metrics.confusion_matrix(right, predicted, labels=LABELS)
    assert [[found["confusion"][one].get(other, 0) for other in LABELS] for one in LABELS] == matrix.tolist()
    assert all(count for row in found["confusion"].values() for count in row.values())  # no zeros


def test_only_classes_that_are_there() -> None:
    """A class that is neither a label nor a prediction has no metrics; one that is only predicted has no row in the confusion matrix."""
    found = classification().label_metrics([{"label": "yes", "predicted": "no"}, {"label": "yes", "predicted": "yes"}])
    assert figures(found["classes"]) == {"no": [0.0, 0.0, 0.0, 0], "yes": [1.0, 0.5, pytest.approx(2 / 3), 2]}
    assert found["confusion"] == {"yes": {"no": 1, "yes": 1}}
    assert classification(labels=(), regression=True).label_metrics([{"value": 1.0, "predicted": 0.5}]) == {}


def test_entities_are_those_of_seqeval() -> None:
    """Entities are whole names of a type, in IOB; `classes` has the metrics of single tags."""
    objective = tagging()
    objective.labels = ("B-animal", "B-place", "I-animal", "I-place", "O")
    objective._numbers = {label: number for number, label in enumerate(objective.labels)}
    random = np.random.default_rng(2)
    rows = [tuple(random.choice(objective.labels, 9).tolist() for _ in range(2)) for _ in range(30)]
    found = objective.label_metrics([{"tags": right, "predicted": predicted} for right, predicted in rows])
    right, predicted = ([row[side] for row in rows] for side in range(2))
    theirs = seqeval.metrics.classification_report(right, predicted, output_dict=True, zero_division=0)
    assert figures(found["entities"]) == {
        name: pytest.approx(row) for name, row in report({one: theirs[one] for one in ("animal", "place")}).items()
    }
    flat = [[tag for row in side for tag in row] for side in (right, predicted)]
    tags = sklearn_metrics.classification_report(*flat, output_dict=True, zero_division=0)
    assert figures(found["classes"]) == {
        name: pytest.approx(row) for name, row in report({one: tags[one] for one in objective.labels}).items()
    }
    assert sum(count for row in found["confusion"].values() for count in row.values()) == 270
    objective.labels = ("ADJ", "NOUN")
    objective._numbers = {"ADJ": 0, "NOUN": 1}
    assert objective.label_metrics([{"tags": ["ADJ"], "predicted": ["NOUN"]}]).keys() == {"classes", "confusion"}
