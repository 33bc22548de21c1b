"""The files and folders that a recipe names. A recipe whose files are missing is valid, but cannot run."""

import glob
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any

from tfkit.recipe.bundled import fetch_command
from tfkit.recipe.reading.problems import Problem, problem_at, quoted
from tfkit.recipe.reading.tree import Node, Path, plain
from tfkit.recipe.schema.objective_facts import SECTIONS


def missing_files(tree: Node) -> list[Problem]:
    """Return a problem for each path in a recipe that does not exist. The recipe may be invalid; names on the Hub are not checked."""
    problems = []
    for path, name, what in _paths(plain(tree)):
        if isinstance(name, str) and not name.startswith("hub:") and not _exists(name):
            fetch = fetch_command(name)
            remedy = f"`{fetch}` fetches it" if fetch else "correct the path"
            problems.append(problem_at(tree, path, f"{quoted(name)}: no such {what} (from {FilePath.cwd()}); {remedy}"))
    return problems


def _paths(recipe: dict[str, Any]) -> Iterator[tuple[Path, Any, str]]:
    """Yield each field of a recipe, valid or not, that names a file or folder, its value, and the words for it in a message."""
    sections = {name: section for name, section in recipe.items() if isinstance(section, dict)}
    data = sections.get("data", {})
    for part in ("train", "validation", "pretraining"):
        sources = data.get(part)
        for number, source in enumerate(sources if isinstance(sources, list) else []):
            if isinstance(source, dict):
                yield ("data", part, number, "path"), source.get("path"), "file or folder, and no file matches it as a glob"
                beside = source.get("beside")
                for role, path in beside.items() if isinstance(beside, dict) else ():
                    yield ("data", part, number, "beside", role), path, "file, and no file matches it as a glob"
                yield ("data", part, number, "class_names"), source.get("class_names"), "file"  # ignored if it is a list, not a path
    yield from ((path, name, "folder") for path, name in model_paths(recipe))
    rules = sections.get("objective", {}).get("rules")
    for number, rule in enumerate(rules if isinstance(rules, list) else []):
        if isinstance(rule, dict) and isinstance(function := rule.get("function"), str):
            yield ("objective", "rules", number, "function"), function.rpartition(":")[0] or function, "file"
    yield ("carbon", "intensity_file"), sections.get("carbon", {}).get("intensity_file"), "file"


def model_paths(recipe: dict[str, Any]) -> Iterator[tuple[tuple[str, str], Any]]:
    """Yield each field that may name a model folder, with its value; None if the field is missing. The recipe may be invalid."""
    model, tokenizer, objective = (
        part if isinstance(part := recipe.get(name), dict) else {} for name in ("model", "tokenizer", "objective")
    )
    yield ("tokenizer", "path"), tokenizer.get("path")
    yield ("model", "from"), model.get("from")
    kind = objective.get("kind", "causal_lm")
    section = SECTIONS.get(kind) if isinstance(kind, str) else None
    for name in section.companions if section else ():
        yield ("objective", name), objective.get(name)


def _exists(name: str) -> bool:
    try:
        path = FilePath(name).expanduser()
        return path.exists() or bool(next(glob.iglob(str(path), recursive=True), None))
    except (OSError, RuntimeError, ValueError):  # no file can have this name, or there is no such user for ~user
        return False
