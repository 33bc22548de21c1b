"""The lineage of a run as a picture: a box for each model, with arrows from the parents above it."""

from collections.abc import Mapping

from tfkit.reporting.html_elements import Element, element
from tfkit.reporting.run_set import Entry
from tfkit.units import format_mass

MOST_ANCESTORS = 40
_BOX, _BOX_HEIGHT, _GAP, _DOWN = 164, 62, 16, 44
_LETTERS = 21  # of a name that fit into a box


def lineage_picture(entry: Entry) -> Element | None:
    """Return the figure; None for a run without ancestors, or with too many for a picture."""
    ancestry = entry.inherited
    if not 0 < len(ancestry.ancestors) <= MOST_ANCESTORS:
        return None
    own = len(ancestry.ancestors)  # the run's own index, after its ancestors
    parents = {index: ancestor.parents for index, ancestor in enumerate(ancestry.ancestors)} | {own: ancestry.parents}
    rows = _rows(parents, own)
    width = max(len(row) for row in rows) * (_BOX + _GAP)
    corners: dict[int, tuple[float, float]] = {}
    for level, row in enumerate(rows):
        start = (width - len(row) * (_BOX + _GAP)) / 2
        for column, index in enumerate(row):
            corners[index] = (start + column * (_BOX + _GAP) + _GAP / 2, level * (_BOX_HEIGHT + _DOWN) + 1)
    lines = [_arrow(corners[parent], corners[index]) for index in corners for parent in parents[index] if parent in corners]
    boxes = [_box(entry, index, corners[index]) for index in corners]
    height = len(rows) * (_BOX_HEIGHT + _DOWN) - _DOWN + 2
    names = ", ".join(ancestor.name for ancestor in ancestry.ancestors)
    title = element("title", f"Lineage of {entry.label}: it was made from {names}")
    drawing = element("svg", title, *lines, *boxes, viewBox=f"0 0 {width} {height}", role="img", style=f"width:{width}px")
    caption = element("figcaption", f"Lineage of {entry.label}")
    return element(
        "figure", caption, element("div", drawing, class_="scroll", tabindex="0"), class_="wide" if width > 2 * (_BOX + _GAP) else None
    )


def _rows(parents: Mapping[int, tuple[int, ...]], own: int) -> list[list[int]]:
    """Return the models by level, the furthest from the run first. A cycle, possible only in an edited lineage, is cut."""
    depth = {own: 0}
    pending = [own]
    while pending:
        index = pending.pop()
        for parent in parents[index]:
            if parent != own and depth[index] + 1 <= len(parents) and depth.get(parent, -1) < depth[index] + 1:
                depth[parent] = depth[index] + 1
                pending.append(parent)
    deepest = max(depth.values())
    return [row for level in range(deepest, -1, -1) if (row := [index for index in sorted(depth) if depth[index] == level])]


def _arrow(parent: tuple[float, float], child: tuple[float, float]) -> Element:
    x1, y1, x2, y2 = parent[0] + _BOX / 2, parent[1] + _BOX_HEIGHT, child[0] + _BOX / 2, child[1]
    head = element("polygon", points=f"{x2:.1f},{y2:.1f} {x2 - 5:.1f},{y2 - 9:.1f} {x2 + 5:.1f},{y2 - 9:.1f}", class_="head")
    middle = (y1 + y2) / 2
    path = element("path", d=f"M{x1:.1f},{y1:.1f} C{x1:.1f},{middle:.1f} {x2:.1f},{middle:.1f} {x2:.1f},{y2 - 8:.1f}", class_="link")
    return element("g", path, head)


def _box(entry: Entry, index: int, cropped: tuple[float, float]) -> Element:
    x, y = cropped
    ancestors = entry.inherited.ancestors
    if index == len(ancestors):
        name, grams, source, roles = entry.label, entry.run.amounts.emissions_g, "", "this run"
    else:
        ancestor = ancestors[index]
        name, grams, source, roles = ancestor.name, ancestor.emissions_g, ancestor.source, ", ".join(ancestor.roles)
    short = name if len(name) <= _LETTERS else name[: _LETTERS - 3] + "..."
    emissions = "cost unknown" if grams is None else format_mass(grams) + (" by its card" if source == "card" else "")
    kind = "own" if index == len(ancestors) else "known" if grams is not None else "unknown"
    middle = x + _BOX / 2
    return element(
        "g",
        element("title", f"{name} ({roles}): {emissions}"),
        element("rect", x=x, y=y, width=_BOX, height=_BOX_HEIGHT, rx=6, class_=f"box {kind}"),
        element("text", short, x=middle, y=y + 20, text_anchor="middle", class_="strong"),
        element("text", roles[:24], x=middle, y=y + 37, text_anchor="middle"),
        element("text", emissions, x=middle, y=y + 53, text_anchor="middle"),
    )
