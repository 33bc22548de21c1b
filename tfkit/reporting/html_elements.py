"""HTML and SVG as a tree of elements. The one place where text is escaped: whatever a run folder holds is shown, and never obeyed."""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tfkit.reporting.visible_text import visible

_VOID = {"meta", "br"}
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]*")

Child = "Element | str | None"


@dataclass(frozen=True)
class Element:
    """An element with its attributes and children, of which texts are escaped when they are written."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: tuple["Element | str", ...] = ()


def element(tag: str, *children: "Element | str | None", **attributes: "str | float | None") -> Element:
    """Make an element; None among the children or attributes is left out.

    Attributes are named as Python has them: `class_`, `text_anchor` for `text-anchor`; numbers are rounded to tenths.
    """
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    assert _NAME.fullmatch(tag), tag
    assert all(map(_NAME.fullmatch, named)), named
    texts = {name: value if isinstance(value, str) else f"{round(value, 1):g}" for name, value in named.items()}
    return Element(tag, texts, tuple(child for child in children if child is not None))


def written(root: Element) -> str:
    """Return the text of an element: every child text and every attribute escaped, control characters as codes."""
    return "".join(_pieces(root))


def _pieces(one: "Element | str") -> Iterator[str]:
    if isinstance(one, str):
        yield _escaped(one)
        return
    attributes = "".join(f' {name}="{_escaped(value)}"' for name, value in one.attributes.items())
    yield f"<{one.tag}{attributes}>"
    if one.tag == "style":  # raw text, in which nothing can be escaped: it is ours alone
        assert all(isinstance(child, str) and "<" not in child for child in one.children)
        yield from (child for child in one.children if isinstance(child, str))
    else:
        for child in one.children:
            yield from _pieces(child)
    if one.tag not in _VOID:
        yield f"</{one.tag}>"


def _escaped(text: str) -> str:
    return html.escape(visible(text, lines=True), quote=True)
