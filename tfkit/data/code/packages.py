"""Chunks of code and the package that each is from. Import statements are removed, since most of them name the package."""

import ast
from collections.abc import Iterator
from typing import Any

_LINES = 30  # minimum for a chunk, which ends at the next blank line
_MIN_LAST_LINES = 8  # a shorter last chunk has too little information


def packages(path: str, text: str, tree: ast.Module) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the first line, and the text and label, of each chunk; nothing for a module outside any package."""
    label, slash, _ = path.partition("/")
    if not slash:
        return
    imports = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    chunk: list[str] = []
    first = 1
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if number in imports:
            continue
        if not chunk:
            first = number
        if line.strip() or chunk:
            chunk.append(line.rstrip())
        if len(chunk) >= _LINES and not line.strip():
            yield first, {"text": "\n".join(chunk).rstrip(), "label": label}
            chunk = []
    if sum(map(bool, chunk)) >= _MIN_LAST_LINES:
        yield first, {"text": "\n".join(chunk).rstrip(), "label": label}
