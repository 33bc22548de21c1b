"""The figures of each class of an evaluation as tables for people, and which classes are taken for which."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfkit import console
from tfkit.cli.aligned import aligned

_MOST_CLASSES = 20  # in a table: of more, those with the lowest F1
_WORST = 10
_MOST_PAIRS = 10
_LONGEST_NAME = 32  # columns
_WIDTH = 100  # of what no terminal shows


def class_tables(result: Mapping[str, Any]) -> str:
    """Return the tables of a result, a blank line before each; empty if it has no classes."""
    classes, entities, confusion = (result.get(name) for name in ("classes", "entities", "confusion"))
    tables = [_figures(found, what) for found, what in ((entities, "entity"), (None if entities else classes, "class")) if found]
    tables += [_matrix(confusion, list(classes)) or _pairs(confusion)] if classes and confusion else []
    return "".join(f"\n\n{table}" for table in tables if table)


def _figures(classes: Mapping[str, Mapping[str, float]], what: str) -> str:
    """Precision, recall and F1 of each class, or of the worst of many."""
    shown, about = list(classes), what
    if len(classes) > _MOST_CLASSES:
        shown = sorted((name for name in classes if classes[name]["support"]), key=lambda name: classes[name]["f1"])[:_WORST]
        about = f"{what}, lowest F1 of {len(classes):,}"
    figures = [[f"{classes[name][key]:.4f}" for key in ("precision", "recall", "f1")] for name in shown]
    rows = [[_cut(name), *found, f"{classes[name]['support']:,}"] for name, found in zip(shown, figures, strict=True)]
    return aligned([[about, "precision", "recall", "f1", "support"], *rows])


def _matrix(confusion: Mapping[str, Mapping[str, int]], labels: Sequence[str]) -> str:
    """How often each class was predicted for each; empty for many classes, or if it is wider than the terminal."""
    if len(labels) > _MOST_CLASSES:
        return ""
    rows = [[_cut(right), *(f"{confusion[right].get(other, 0):,}" for other in labels)] for right in labels if right in confusion]
    table = aligned([["label \\ predicted", *map(_cut, labels)], *rows])
    return table if console.columns_of(table.partition("\n")[0]) < (console.result_columns() or _WIDTH) else ""


def _pairs(confusion: Mapping[str, Mapping[str, int]]) -> str:
    """The classes that are most often taken for another."""
    wrong = [(count, right, other) for right, row in confusion.items() for other, count in row.items() if other != right]
    most = sorted(wrong, key=lambda one: -one[0])[:_MOST_PAIRS]
    rows = [[_cut(right), _cut(other), f"{count:,}"] for count, right, other in most]
    return aligned([["most confused", "predicted", "number"], *rows], 2) if rows else ""


def _cut(name: str) -> str:
    """A name on one line, its end cut off if it is long."""
    name = " ".join(name.split())
    while console.columns_of(name) > _LONGEST_NAME:
        name = name.removesuffix("...")[:-1] + "..."
    return name
