"""The page of decisions: its tasks, its verdicts, and the rows that it cuts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import decision_tasks
import decisions
import pytest
from decision_tasks import DECODER, RARE_TASKS, TASKS, Task, read_rows, write_task
from decisions import Cell, Shown
from tiny_files import write_rows

TASK = Task(
    "one", "language modelling", True, "smollm2", "causal_lm", {"path": "text.txt"}, None, (3, 2), "loss", DECODER, 8, (1, 2, 3, 4), (1, 3)
)


def cell(name: str, score: float, **changes: Any) -> Cell:
    return replace(Cell(name, 1e-3, 8, 2, 50, score), **changes)


def shown(default: float, grid: list[float], metric: str = "loss", untouched: float | None = None, **baselines: float) -> Shown:
    task = next(task for task in TASKS if task.metric == metric)
    cells = [cell(f"lr{number}", score) for number, score in enumerate(grid)]
    return Shown(task, cell("default-2", default), cells, untouched, baselines, (9, 9))


def test_twelve_tasks_of_six_kinds_five_of_them_to_show_the_rules_on() -> None:
    assert (len(TASKS), len({task.group for task in TASKS}), len({task.name for task in TASKS})) == (12, 6, 12)
    assert sum(not task.chosen_on for task in TASKS) == 5
    assert all(max(task.rows) <= 2000 for task in TASKS)
    assert {task.start for task in TASKS} == {"minilm", "smollm2", *decisions.PRETRAINING_STEPS}
    assert [task.chosen_on for task in RARE_TASKS] == [False, True]


@pytest.mark.parametrize(
    ("one", "is_close", "is_above"),
    [
        (shown(1.03, [1.0, 2.0]), True, True),
        (shown(1.04, [1.0, 2.0]), False, True),
        (shown(0.9, [1.0, 2.0]), True, True),  # better than the grid
        (shown(1.02, [1.0, 2.0], untouched=1.01), True, False),
        (shown(1.02, [1.0, 2.0], untouched=0.9), True, True),  # which the grid does not reach either
        (shown(0.88, [0.9, 0.5], "accuracy", naive_bayes=0.7, most_frequent_class=0.1), True, True),
        (shown(0.87, [0.9, 0.5], "accuracy", naive_bayes=0.89), False, False),
    ],
)
def test_the_verdicts(one: Shown, is_close: bool, is_above: bool) -> None:
    assert (one.is_close, one.is_above_bars) == (is_close, is_above)


def test_a_trial_has_a_line_with_its_rates_in_their_order() -> None:
    trial = {"losses": {"0.01": 4.16, "0.0033": 4.788, "0.03": None}, "lr": 0.01, "steps": 16}
    one = replace(shown(1.0, [1.0]), default=cell("default-3", 1.0, trial=trial))
    assert decisions._trial(one) == f"| {one.task.name} | 16 of 50 | 0.0033 4.788, 0.01 4.160, 0.03 - | 0.01 |"


def test_a_text_is_cut_into_pieces_of_which_the_last_are_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_tasks, "PIECE", 8)
    (tmp_path / "text.txt").write_text("".join(f"line {number}\n" for number in range(12)), encoding="utf-8")
    train, test = write_task(TASK, tmp_path, tmp_path / "rows")
    assert [[row["text"] for row in read_rows(path)] for path in (train, test)] == [
        ["line 0\nline 1\n", "line 2\nline 3\n", "line 4\nline 5\n"],
        ["line 10\n", "line 11\n"],
    ]


def test_rows_are_drawn_without_repetition_and_the_same_in_each_call(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"text": f"a text with number {number}", "label": str(number % 2)} for number in range(40)])
    task = replace(TASK, kind="classification", train={"path": "rows.jsonl"}, rows=(20, 9), metric="accuracy")
    first, again = ([read_rows(path) for path in write_task(task, tmp_path, tmp_path / name)] for name in ("a", "b"))
    assert first == again
    texts = [row["text"] for part in first for row in part]
    assert (len(texts), len({*texts})) == (29, 29)


@pytest.mark.parametrize(
    ("kind", "name", "values", "expected"),
    [
        ("classification", "label", ["a", "b", "c"], ["a", "another", "c"]),
        ("tagging", "tags", [["a", "b"], ["O", "c"]], [["a", "O"], ["O", "c"]]),
    ],
)
def test_classes_that_are_not_kept_are_one(tmp_path: Path, kind: str, name: str, values: list[Any], expected: list[Any]) -> None:
    text = {"tagging": {"tokens": ["two", "words"]}}.get(kind, {"text": "a text"})
    write_rows(tmp_path / "rows.jsonl", [text | {name: value} for value in values])
    task = replace(TASK, kind=kind, train={"path": "rows.jsonl"}, rows=(3, 3), kept=("a", "c"))
    rows = read_rows(write_task(task, tmp_path, tmp_path / "made")[0])
    assert sorted((row[name] for row in rows), key=str) == sorted(expected, key=str)


def test_a_task_is_read_from_the_page_that_shows_it() -> None:
    task = replace(TASK, name="task", rates=(1e-4, 0.03), epochs=(1, 3))
    scores = {(1e-4, 1): 1.25, (0.03, 1): 2.5, (0.03, 3): 0.75}
    grid = [Cell(f"lr{lr:g}-epochs{epochs}", lr, 8, epochs, 0, score) for (lr, epochs), score in scores.items()]
    trial = {"losses": {"0.0033": 4.5, "0.01": None}, "lr": 0.0033, "steps": 16}
    default = Cell("default-2", 0.0033, 8, 6.0, 50, 1.0, trial)
    one = Shown(task, default, grid, 3.125, {}, (3, 2))
    other = replace(one, task=replace(task, name="other"), grid=[])
    lines = ["# A page", *decisions._summary([one]), "", decisions._trial(one), "", *decisions._grid(one), *decisions._grid(other)]
    page = "\n".join(lines)
    assert decisions.grid_of_page(task, page) == grid
    assert decisions.default_of_page(task, page) == [default]
    assert decisions.untouched_of_page(task, page) == 3.125
    missing = replace(task, name="missing")
    assert decisions.grid_of_page(missing, page) == decisions.default_of_page(missing, page) == []
    assert decisions.untouched_of_page(missing, page) is None


def test_further_seeds_are_of_the_best_rate_and_those_beside_it() -> None:
    task = replace(TASK, epochs=(1,))
    grid = [cell(f"lr{rate}", score, lr=rate, epochs=1) for rate, score in zip(task.rates, (2.0, 1.5, 1.6, 3.0), strict=True)]
    assert [one.lr for one in decisions._around_best(task, grid)] == [1, 2, 3]
    assert [one.lr for one in decisions._around_best(task, [*grid[:1], *grid[2:]])] == [3, 4], "one may be missing"
    assert [one.lr for one in decisions._around_best(replace(task, metric="accuracy"), grid)] == [3, 4]
    assert decisions._around_best(task, []) == []


def test_the_rates_of_lora_have_a_line_for_each_task_with_all_seeds() -> None:
    grid = [cell("one", score, lr=lr) for lr, score in ((1, 2.0), (2, 1.5), (2, 1.4))]
    *_, head, _, first, _, missing, _ = decisions._lora_rates([(TASK, grid, 2.5), (replace(TASK, name="two"), [], None)])
    assert head == "| task | kind | rows, scored | steps, batch | untouched | 1 | 2 | 3 | 4 |"
    assert first == "| one | language modelling | 3, 2 | 50, 8 | 2.500 | 2.000 | 1.500, 1.400 | - | - |"
    assert missing == "Not measured: two."
    assert decisions._lora_rates([(TASK, [], None)]) == []
