"""The project around the code: what is declared, what a wheel holds, what the Makefile offers, where the command can start."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import tfkit

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]

# Named in pyproject.toml as they are on PyPI; imported under another name.
IMPORTED_AS = {"pyyaml": "yaml", "mlflow-skinny": "mlflow", "pytest-xdist": "xdist", "ruamel.yaml": "ruamel", "scikit-learn": "sklearn"}


def distribution(requirement: str) -> str:
    return re.split(r"[<>=!~;\[ ]", requirement, maxsplit=1)[0]


def imported_libraries(folder: Path) -> set[str]:
    """Top-level names that are neither ours nor the standard library's."""
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names - {"tfkit", "__future__"} - sys.stdlib_module_names


def modules(requirements: list[str]) -> set[str]:
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in map(distribution, requirements)}


def test_every_import_is_declared_and_every_dependency_imported() -> None:
    declared, imported = modules(PROJECT["dependencies"]), imported_libraries(ROOT / "tfkit")
    optional = modules(
        [requirement for extra, names in PROJECT["optional-dependencies"].items() if extra != "dev" for requirement in names]
    )
    assert imported - declared - optional == set()
    assert declared - imported == set()


def test_every_import_of_the_tests_and_benchmarks_is_declared() -> None:
    declared = modules(PROJECT["dependencies"]) | modules(PROJECT["optional-dependencies"]["dev"])
    imported = imported_libraries(ROOT / "tests") | imported_libraries(ROOT / "benchmarks")
    beside = {path.stem for folder in ("benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")} | {
        "attacks",
        "walks",
    }  # packages of tests/
    assert imported - declared - beside == set()


def test_dependencies_have_lower_bounds() -> None:
    """And upper ones only where the next major release is known to break: each of those is CodeCarbon's."""
    for requirement in PROJECT["dependencies"]:
        assert ">=" in requirement
        assert "<" not in requirement or distribution(requirement) == "codecarbon"


def test_the_version_is_said_once_more_and_the_same() -> None:
    assert PROJECT["version"] == tfkit.__version__


def test_the_changelog_begins_with_what_is_not_released() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_wheel_holds_the_recipes(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns(".git", ".venv", "runs", ".*_cache", "__pycache__", "dist", "build")
    shutil.copytree(ROOT, copy, ignore=ignored)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=copy, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    recipes = {f"tfkit/recipes/{path.relative_to(ROOT / 'recipes').as_posix()}" for path in (ROOT / "recipes").rglob("*.yaml")}
    assert recipes
    assert {*recipes, "tfkit/recipes/data.json"} <= held
    files = [path for path in (ROOT / "tfkit").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert "page.html.jinja" in {path.name for path in files}
    assert {f"tfkit/{path.relative_to(ROOT / 'tfkit').as_posix()}" for path in files} <= held
    assert not [name for name in held if name.startswith(("tests/", "benchmarks/"))]


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_help_names_every_target() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert phony
    assert re.findall(r"^  make ([\w-]+)", listed, re.MULTILINE) == phony[1].split()


def test_make_test_touches_every_folder_and_every_row_of_the_fault_matrix(collected: dict[str, str]) -> None:
    """Where tests are that are not slow. A session that has not collected all folders cannot say it."""

    def groups(name: str) -> set[str]:
        """Return the folder of a test, or its file if that lies beside the folders, and the rows of the matrix in its name."""
        file, _, test = name.partition("::")
        rows = re.match(r"test_(f\d\d(?:_f\d\d)*)_", test)
        return {file if file.count("/") == 1 else file.rpartition("/")[0], *(rows[1].split("_") if rows else ())}

    everything = set().union(*(groups(name) for name, kind in collected.items() if kind != "slow"))
    if not {f"tests/{path.name}" for path in (ROOT / "tests").iterdir() if any(path.glob("test_*.py"))} <= everything:
        pytest.skip("only a part of the tests was collected")
    assert everything - set().union(*(groups(name) for name, kind in collected.items() if kind == "quick")) == set()


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_says_when_python_is_too_old(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[1])" "$2"\n')
    old.chmod(0o755)
    command = ["make", "demo", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert f"{old} is 3.9" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    "environment",
    [
        {"TERM": "dumb", "COLUMNS": "20", "NO_COLOR": "1", "LC_ALL": "C", "HOME": "/dev/null/home"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "cp1252"},
    ],
    ids=lambda environment: " ".join(environment),
)
def test_the_commands_work_in_a_bare_environment(environment: dict[str, str]) -> None:
    """Not on a terminal: plain ASCII, no escape codes, and each ends with 0 (reliability F47)."""
    commands = [["--help"], ["pretrain", "--help"], ["recipes"], ["check", "gpt2-stdlib"]]
    program = f"from tfkit.__main__ import main\nprint([main(words) for words in {commands}])"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.stdout.splitlines()[-1] == b"[0, 0, 0, 0]", done.stderr.decode(errors="replace")[-2000:]
    assert done.stdout.isascii()
    assert b"\x1b" not in done.stdout + done.stderr
