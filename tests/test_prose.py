"""The words of docstrings and comments: the field's, not a private dialect."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIALECT = re.compile(r"\b(told|tells?|stands?|stood)\b")
SUSPECT = re.compile(rf"""{DIALECT.pattern}|["']\s*What """)  # a file without it needs no parsing, which takes most of the time


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(node)):
            yield node.body[0].lineno, text


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each comment."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def problems(source: str) -> list[str]:
    """Return the places at which a docstring or a comment is not in the field's words."""
    if not SUSPECT.search(source):
        return []
    texts = [*docstrings(source)]
    found = [f"{line}: a docstring begins with a verb or a noun: {text[:60]}" for line, text in texts if text.startswith("What ")]
    return found + [f"{line}: {word[0]}" for line, text in (*texts, *comments(source)) for word in DIALECT.finditer(text)]


def test_docstrings_and_comments_use_the_words_of_the_field() -> None:
    paths = [path for folder in ("tfkit", "benchmarks", "tests", "docs") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(paths) > 500
    found = [f"{path.relative_to(ROOT)}:{problem}" for path in paths for problem in problems(path.read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


def test_the_dialect_is_found() -> None:
    source = (
        '"""What a run is."""\nx = "it is told"  # where x stands\n\n\ndef f() -> None:\n    """Return what f tells.\n\n    It stood."""\n'
    )
    assert [problem.partition(":")[0] for problem in problems(source)] == ["1", "6", "6", "2"]
