"""The tables of each class: cut for many classes, no wider than a terminal, whatever the names are."""

import pytest

from tfkit import console
from tfkit.cli.evaluate import class_tables


def result(names: list[str], confused: int = 3) -> dict[str, object]:
    """Every class is taken for the next one, the first most often."""
    confusion = {name: {name: 10, names[(i + 1) % len(names)]: confused + len(names) - i} for i, name in enumerate(names)}
    classes = {name: {"precision": 0.5, "recall": 0.25, "f1": (i + 1) / 1000, "support": 1234} for i, name in enumerate(names)}
    return {"classes": classes, "confusion": confusion}


def test_few_classes_have_a_matrix() -> None:
    assert class_tables(result(["yes", "no"])).split("\n\n")[1:] == [
        "class  precision  recall      f1  support\nyes       0.5000  0.2500  0.0010    1,234\nno        0.5000  0.2500  0.0020    1,234",
        "label \\ predicted  yes  no\nyes                 10   5\nno                   4  10",
    ]


def test_of_many_classes_the_worst_and_the_most_confused() -> None:
    _, figures, pairs = class_tables(result([f"class {number}" for number in range(21)])).split("\n\n")
    assert figures.splitlines()[0].split("  ")[0] == "class, lowest F1 of 21"
    assert [line[:8].strip() for line in figures.splitlines()[1:]] == [f"class {number}" for number in range(10)]
    assert pairs.splitlines()[0].split() == ["most", "confused", "predicted", "number"]
    assert pairs.splitlines()[1].split() == ["class", "0", "class", "1", "24"]
    assert len(pairs.splitlines()) == 11


def test_a_matrix_is_no_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long names are cut, wide characters count two; where nothing is confused no pairs are shown."""
    names = ["a very long name of a class, indeed too long", "漢字" * 20, "line\nend"]
    _, figures, matrix = class_tables(result(names)).split("\n\n")
    assert [line.partition("  ")[0] for line in figures.splitlines()[1:]] == [
        "a very long name of a class, ...",
        "漢字漢字漢字漢字漢字漢字漢字...",
        "line end",
    ]
    assert matrix.startswith("most confused")  # the matrix has 101 columns
    monkeypatch.setattr(console, "result_columns", lambda: 120)
    wide = class_tables(result(names)).split("\n\n")[2]
    assert wide.startswith("label \\ predicted")
    assert len({*map(console.columns_of, wide.splitlines())}) == 1
    right = {"classes": result(names)["classes"], "confusion": {name: {name: 3} for name in names}}
    monkeypatch.setattr(console, "result_columns", lambda: 70)
    assert class_tables(right).count("\n\n") == 1
    assert class_tables({}) == ""
