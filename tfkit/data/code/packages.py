"""Stretches of code and their package. Imports are removed: most of them name it."""

import ast
from collections.abc import Iterator
from typing import Any

_LINES = 30  # of a stretch, which ends at the next empty line
_FEWEST = 8  # a shorter rest has too little information


def packages(path: str, text: str, tree: ast.Module) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield text and label of every stretch; none of a module outside of packages."""
    label, slash, _ = path.partition("/")
    if not slash:
        return
    imports = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    stretch: list[str] = []
    first = 1
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if number in imports:
            continue
        if not stretch:
            first = number
        if line.strip() or stretch:
            stretch.append(line.rstrip())
        if len(stretch) >= _LINES and not line.strip():
            yield first, {"text": "\n".join(stretch).rstrip(), "label": label}
            stretch = []
    if sum(map(bool, stretch)) >= _FEWEST:
        yield first, {"text": "\n".join(stretch).rstrip(), "label": label}
