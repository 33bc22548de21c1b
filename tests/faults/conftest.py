"""Collect the results of the tests of each row of the fault matrix, here and elsewhere, and write docs/faults.md if requested."""

import re
from collections import defaultdict
from pathlib import Path

import pytest
from matrix import MATRIX, SAME
from saved_runs import Base

TABLE = Path(__file__).parents[2] / "docs" / "faults.md"
_ROW = re.compile(r"\btest_(f\d\d(?:_f\d\d)*)_")
_outcomes: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """The runs that the tests of saving, loading, locks and kills compare with, which none of them changes."""
    return Base(tmp_path_factory.mktemp("saved"))


def rows_of(name: str) -> list[str]:
    """Return the ids in a test's name: test_f01_f02_kills shows F01 and F02."""
    found = _ROW.search(name)
    return found[1].upper().split("_") if found else []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        for row in rows_of(report.nodeid):
            _outcomes[row][report.outcome] += 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Reject a test of this folder with no row of the matrix, or an unknown one, in its name."""
    for item in items:
        if "tests/faults/" in item.nodeid:
            rows = rows_of(item.nodeid)
            if not rows or not set(rows) <= MATRIX.keys():
                raise pytest.UsageError(
                    f"{item.nodeid}: a test of tests/faults has the id of a row of the matrix in its name: test_f03_..."
                )


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--write-table") and not hasattr(session.config, "workerinput"):
        TABLE.write_text(table(session.config.getoption("--kills"), session.config.getoption("--draws")), encoding="utf-8")


def table(kills: int, draws: int) -> str:
    """Return the text of docs/faults.md."""
    lines = [
        "# Injected faults and their outcomes",
        "",
        "`make faults` writes this page: it injects each of these faults into the real program, as a process. "
        f"The last run made {kills} random kills, and used {draws} random recipes and mutated files of each kind.",
        "",
        f"{SAME}, on one machine, on its CPU.",
        "",
        "| id | fault | promise | exit code | tests |",
        "|---|---|---|---|---|",
    ]
    for name, row in MATRIX.items():
        fault = row.fault.replace("|", "\\|")
        lines.append(f"| {name} | {fault} | {row.promise} | {row.exit} | {_result(name)} |")
    return "\n".join(lines) + "\n"


def _result(name: str) -> str:
    counts = _outcomes.get(name)
    if not counts:
        reason = MATRIX[name].not_here
        return f"not shown: {reason}" if reason else "**no test**"
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
