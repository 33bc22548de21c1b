"""Examples for summarising functions: the source is the code without docstrings, and the target the first sentence of the function's own
docstring.

The docstrings of nested definitions are removed too, so that no row contains another row's target. Functions whose body is only a
docstring are excluded, as are functions whose code contains the target literally (in a comment or a message).
"""

import ast
import inspect
import re
from collections.abc import Iterator
from typing import Any

_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)[.!?](?=\s|$)")
_WORDS = range(3, 61)  # how many words a first sentence may have as a target; some docstrings begin with a long list instead
_HAVE_DOCSTRINGS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def docstrings(path: str, text: str, tree: ast.Module) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number and the columns (source, target, name) of each function or method with a usable summary in its docstring."""
    lines = text.split("\n")  # ast ends lines only at \n; splitlines would also split at form feeds
    cuts = [(node.body[0], len(node.body) == 1) for node in ast.walk(tree) if isinstance(node, _HAVE_DOCSTRINGS) and _docstring(node)]
    for name, node in _functions(tree, ""):
        docstring = _docstring(node)
        target = summary(docstring) if docstring and len(node.body) > 1 else None
        if target is None:
            continue
        inside = [cut for cut in cuts if node.lineno <= cut[0].lineno <= (node.end_lineno or node.lineno)]
        source = _strip_docstrings(lines, node, inside)
        if target.rstrip(".!?") not in " ".join(source.replace("#", " ").split()):
            yield node.lineno, {"source": source, "target": target, "name": name}


def summary(docstring: str) -> str | None:
    """Return the first sentence of a docstring, on one line; None if it has fewer or more words than `_WORDS` allows, or is a doctest."""
    paragraph = re.split(r"\n\s*\n", inspect.cleandoc(docstring), maxsplit=1)[0]
    sentence = " ".join(paragraph.split())
    if end := _END.search(sentence):
        sentence = sentence[: end.end()]
    return sentence if len(sentence.split()) in _WORDS and not sentence.startswith(">>>") else None


def _docstring(node: ast.AST) -> str | None:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            match node.body[0]:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    return text
    return None


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield the qualified name and the node of each function below a node, in source order."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + inner.name, inner
        yield from _functions(inner, f"{prefix}{inner.name}." if isinstance(inner, _HAVE_DOCSTRINGS) else prefix)


def _strip_docstrings(lines: list[str], node: ast.stmt, cuts: list[tuple[ast.stmt, bool]]) -> str:
    """Return a function's source, dedented, without the docstrings inside. `cuts`: each docstring, and whether it is the whole body of its
    definition; a docstring that is the whole body becomes `pass`.
    """
    first = node.lineno - 1
    code = lines[first : node.end_lineno]
    indent = code[0][: len(code[0]) - len(code[0].lstrip())]
    for docstring, alone in sorted(cuts, key=lambda cut: -cut[0].lineno):  # backwards, so that earlier lines keep their numbers
        start, end = docstring.lineno - 1 - first, (docstring.end_lineno or docstring.lineno) - 1 - first
        before = _slice_bytes(code[start], None, docstring.col_offset)
        after = _slice_bytes(code[end], docstring.end_col_offset, None).lstrip()
        if alone:
            after = f"pass  {after}" if after else "pass"
        elif after.startswith(";"):
            after = after[1:].lstrip()
        code[start : end + 1] = [before + after] if before.strip() or after else []
        while not alone and not after and start < len(code) and not code[start].strip():
            del code[start]
    return "\n".join(line.removeprefix(indent).rstrip() for line in code)


def _slice_bytes(line: str, start: int | None, end: int | None) -> str:
    """Slice a line by UTF-8 byte offsets, which ast uses."""
    return line.encode()[start:end].decode()
