"""HTML and SVG as a tree of elements. All text is escaped here, so that no content of a run folder is interpreted as markup."""

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
    """An element with its attributes and children; their texts are escaped by `render`."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: tuple["Element | str", ...] = ()


def element(tag: str, *children: "Element | str | None", **attributes: "str | float | None") -> Element:
    """Make an element, without the children and attributes that are None.

    Attributes have Python names: `class_`, and `text_anchor` for `text-anchor`. Numbers are rounded to tenths.
    """
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    assert _NAME.fullmatch(tag), tag
    assert all(map(_NAME.fullmatch, named)), named
    texts = {name: value if isinstance(value, str) else f"{round(value, 1):g}" for name, value in named.items()}
    return Element(tag, texts, tuple(child for child in children if child is not None))


def render(root: Element) -> str:
    """Return the text of an element, with child texts and attributes escaped and control characters as codes."""
    return "".join(_render(root))


def _render(node: "Element | str") -> Iterator[str]:
    if isinstance(node, str):
        yield _escape(node)
        return
    attributes = "".join(f' {name}="{_escape(value)}"' for name, value in node.attributes.items())
    yield f"<{node.tag}{attributes}>"
    if node.tag == "style":  # raw text, which cannot be escaped: only constants of this package
        assert all(isinstance(child, str) and "<" not in child for child in node.children)
        yield from (child for child in node.children if isinstance(child, str))
    else:
        for child in node.children:
            yield from _render(child)
    if node.tag not in _VOID:
        yield f"</{node.tag}>"


def _escape(text: str) -> str:
    return html.escape(visible(text, lines=True), quote=True)
