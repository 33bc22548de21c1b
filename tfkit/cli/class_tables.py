"""The metrics of each class of an evaluation and its confusion matrix, as tables for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfkit import console
from tfkit.cli.results import align_columns

_MAX_CLASSES = 20  # in a table; of more, the _WORST with the lowest F1
_WORST = 10
_MAX_PAIRS = 10
_MAX_NAME = 32  # columns
_WIDTH = 100  # columns, off a terminal


def class_tables(result: Mapping[str, Any]) -> str:
    """Return the tables of a result, each after a blank line; empty if it has no classes."""
    classes, entities, confusion = (result.get(name) for name in ("classes", "entities", "confusion"))
    tables = [_metrics(rows, noun) for rows, noun in ((entities, "entity"), (None if entities else classes, "class")) if rows]
    tables += [_confusion_matrix(confusion, list(classes)) or _most_confused(confusion)] if classes and confusion else []
    return "".join(f"\n\n{table}" for table in tables if table)


def _metrics(classes: Mapping[str, Mapping[str, float]], noun: str) -> str:
    """Return precision, recall and F1 of each class, or of the worst of many."""
    shown, header = list(classes), noun
    if len(classes) > _MAX_CLASSES:
        shown = sorted((name for name in classes if classes[name]["support"]), key=lambda name: classes[name]["f1"])[:_WORST]
        header = f"{noun}, lowest F1 of {len(classes):,}"
    metrics = [[f"{classes[name][key]:.4f}" for key in ("precision", "recall", "f1")] for name in shown]
    rows = [[_cut(name), *values, f"{classes[name]['support']:,}"] for name, values in zip(shown, metrics, strict=True)]
    return align_columns([[header, "precision", "recall", "f1", "support"], *rows])


def _confusion_matrix(confusion: Mapping[str, Mapping[str, int]], labels: Sequence[str]) -> str:
    """Return how often each class was predicted for each label; empty if there are many classes, or if the terminal is too narrow."""
    if len(labels) > _MAX_CLASSES:
        return ""
    rows = [[_cut(label), *(f"{confusion[label].get(other, 0):,}" for other in labels)] for label in labels if label in confusion]
    table = align_columns([["label \\ predicted", *map(_cut, labels)], *rows])
    return table if console.columns_of(table.partition("\n")[0]) < (console.result_columns() or _WIDTH) else ""


def _most_confused(confusion: Mapping[str, Mapping[str, int]]) -> str:
    """Return the classes that are most often mistaken for another."""
    errors = [(count, label, other) for label, row in confusion.items() for other, count in row.items() if other != label]
    most = sorted(errors, key=lambda error: -error[0])[:_MAX_PAIRS]
    rows = [[_cut(label), _cut(other), f"{count:,}"] for count, label, other in most]
    return align_columns([["most confused", "predicted", "number"], *rows], 2) if rows else ""


def _cut(name: str) -> str:
    """Return a name on one line, truncated if it is long."""
    name = " ".join(name.split())
    while console.columns_of(name) > _MAX_NAME:
        name = name.removesuffix("...")[:-1] + "..."
    return name
