"""tfkit inspect --masks: the masks of the first rows, drawn as text."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tfkit import console

if TYPE_CHECKING:
    from tfkit.engine.tools.inspection import ShownMask

Part = tuple[str, str]  # a text and its style
_LABEL = 14  # columns of a token's name, at most
_DRAWN = {"#": "█"}  # the others are drawn as they are
_PARTLY = "▒"


def mask_lines(masks: "Sequence[ShownMask]", width: int) -> Iterator[list[Part]]:
    """Yield the masks line by line: a row for each token, a column for each that it may see; of a long row for several tokens together."""
    from tfkit.engine.tools.inspection import MEANINGS

    seen: set[str] = set()
    for mask in masks:
        yield from ([(line, "bold")] for line in console.wrap(_title(mask).split(" "), width))
        names = [console.result_token(token) for token in mask.queries]
        label = min(_LABEL, width // 3, max(5, *map(console.columns_of, names)))
        together = -(-max(len(mask.keys), len(mask.queries)) // max(1, width - label - 1))
        if together > 1:
            yield from ([(line, "dim")] for line in console.wrap(f"each character: {together} x {together} tokens".split(" "), width))
        for first in range(0, len(mask.queries), together):
            last = min(first + together, len(mask.queries))
            name = names[first] if together == 1 else f"{first}-{last - 1}"
            drawn = [_drawn(mask.cells[first:last], column, together) for column in range(0, len(mask.keys), together)]
            seen.update(drawn)
            yield [(f"{console.fitted(name, label)} ", ""), ("".join(_DRAWN.get(one, one) for one in drawn).rstrip(), "")]
        yield []
    words = [f"{_DRAWN.get(one, one)} {meaning}" for one, meaning in (*MEANINGS.items(), (_PARTLY, "partly seen")) if one in seen]
    yield from ([(line, "")] for line in console.wrap(words, width))


def _title(mask: "ShownMask") -> str:
    kind = {"encoder": "encoder", "decoder": "decoder", "cross": "from decoder to encoder"}[mask.attention]
    count = mask.layers[-1] + 1
    layers = f"layers {mask.layers[0]} to {count - 1}" if len(mask.layers) > 1 else f"layer {mask.layers[0]}"
    if len(mask.layers) not in (1, count - mask.layers[0]):
        layers = f"layers {', '.join(map(str, mask.layers))}"
    return f"{mask.place}: {kind}, {layers}" + (f", window {mask.window}" if mask.window is not None else "")


def _drawn(rows: Sequence[str], column: int, together: int) -> str:
    """Return the character for some rows and columns: what all of them are, or the most frequent reason if none is seen."""
    cells = Counter("".join(row[column : column + together] for row in rows))
    return next(iter(cells)) if len(cells) == 1 else _PARTLY if "#" in cells else max(cells, key=lambda one: cells[one])
