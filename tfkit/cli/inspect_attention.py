"""The option --attention of tfkit inspect: show what the heads of a checkpoint attend to in a text, and which next tokens are likely."""

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfkit import console
from tfkit.cli.options import Tuned
from tfkit.errors import UsageError
from tfkit.units import format_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tfkit.engine.inference.attended_text import AttendedText
    from tfkit.engine.inference.head_patterns import HeadPattern

Part = tuple[str, str]  # a text and its style
_SHADES = ((0.75, "█"), (0.5, "▓"), (0.25, "▒"), (0.05, "░"), (0.0, "."))  # for each character, the smallest weight for which it is drawn
_UNSEEN = " "  # for a key that the query may not attend to
_LETTERS = {  # the letter that is shown for each kind of attention head
    "previous token": "P",
    "next token": "N",
    "itself": "I",
    "first token": "F",
    "last token": "L",
    "same token": "S",
    "in order": "O",
    "spread": "~",
    "mixed": ".",
}
_CLEAREST = 3  # maximum number of heads that are named for each kind but "mixed": those with the highest scores
_STRONGEST = 4  # maximum number of keys that are named for each query
_LIKELIEST = 5  # number of next tokens that are shown at each position
LABEL = 14  # maximum width of the first column, which shows the query tokens


@dataclass(frozen=True, kw_only=True)
class Looked:
    """The option --attention and the options that need it: texts, the layer and head to show, and the form of the output."""

    attention: Annotated[str | None, typer.Option(metavar="TEXT", help="Show what each head of --from attends to in TEXT.")] = None
    target: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The text that an encoder-decoder's decoder reads; by default its own answer.")
    ] = None
    layer: Annotated[int | None, typer.Option(min=0, metavar="L", help="With --head: show one head, token by token.")] = None
    head: Annotated[int | None, typer.Option(min=0, metavar="H", help="The head of the layer; both count from 0.")] = None
    html: Annotated[Path | None, typer.Option(metavar="F", help="Write the attention of all heads as one static page.")] = None
    next_tokens: Annotated[
        bool, typer.Option("--next", help="With --attention: show the likeliest next tokens at each position instead.")
    ] = False

    def check(self, tuned: Tuned, words: Sequence[str]) -> None:
        """Raise UsageError for options that exclude or need each other; `words`: the given arguments that --attention excludes."""
        if self.attention is None:
            given = {"--target": self.target, "--layer": self.layer, "--head": self.head, "--html": self.html}
            given |= {"--next": self.next_tokens or None}
            if named := [name for name, value in given.items() if value is not None]:
                raise UsageError(f"{', '.join(named)}: belongs to --attention TEXT; add it, or leave this out")
            return
        if tuned.checkpoint is None:
            raise UsageError("--attention: of which model? Name it by --from CKPT")
        of_rows = {"--data": tuned.data, "--columns": tuned.columns, "--rows": tuned.rows}
        if others := [*words, *(name for name, value in of_rows.items() if value is not None)]:
            raise UsageError(f"{', '.join(others)}: has no effect with --attention, which reads the text and --from alone; leave it out")
        if (self.layer is None) != (self.head is None):
            raise UsageError("--layer and --head name one head together; give both, or none")


def show_attention(checkpoint: str, looked: Looked, *, as_json: bool, width: int) -> None:
    """Compute a checkpoint's attention weights for the text of --attention, and write them to stdout, to an HTML page (--html) or both."""
    from tfkit.cli.session import command_session
    from tfkit.recipe.schema.carbon_section import CarbonSection

    assert looked.attention is not None
    if looked.html is not None:
        from tfkit.engine.request.inputs import Inputs
        from tfkit.reporting.attention_page import GENERATOR
        from tfkit.reporting.html_page import check_page_path, write_page

        check_page_path(looked.html, GENERATOR)
        Inputs(models=(Path(checkpoint),)).refuse_output(looked.html, "--html")
    with command_session("inspect", CarbonSection(enabled=False)) as session, session.stop.at_once():
        from tfkit.engine.api import load

        attended = load(checkpoint).attention(looked.attention, looked.target, next_tokens=_LIKELIEST * looked.next_tokens)
    if looked.layer is not None and looked.head is not None:
        attended.require_head(looked.layer, looked.head)
    if looked.html is not None:
        write_page(looked.html, _page(attended, checkpoint, looked))
        console.decided(f"wrote {looked.html}, {format_bytes(looked.html.stat().st_size)}")
    if as_json:
        console.json(attended.to_dict(looked.layer, looked.head))
    if as_json or looked.html is not None:
        return
    for line in lines(attended, looked, width):
        console.result_parts(line)


def lines(attended: "AttendedText", looked: Looked, width: int) -> Iterator[list[Part]]:
    """Yield the lines that the terminal shows: the next tokens, the kinds of the heads, or the weights of one head, as requested."""
    if attended.next_tokens is not None:
        yield from _next_lines(attended, width)
    for name, maps in attended.maps.items():
        layers, heads = maps.shape[:2]
        if looked.layer is not None and looked.head is not None:
            if looked.layer < layers:
                yield from _head_lines(attended, name, looked.layer, looked.head, width)
        elif attended.next_tokens is None:
            queries, keys = attended.axes(name)
            lengths = f"{len(queries)} tokens" if name != "cross" else f"{len(queries)} tokens to {len(keys)}"
            yield from plain_lines(f"{name}: {layers} layers of {heads} heads, {lengths}", width, "bold")
            yield from _summary_lines(attended.patterns(name), heads, width)
    if looked.layer is None and attended.next_tokens is None:
        legend = "L0 H0: layer 0, head 0, with its mean weight on such tokens (spread: how even it is). One head: --layer 0 --head 0"
        yield from plain_lines(legend, width)


def _page(attended: "AttendedText", checkpoint: str, looked: Looked) -> str:
    from tfkit.engine.inference.head_patterns import KINDS, summarize
    from tfkit.reporting.attention_page import KindRow, NextRow, ShownMap, attention_page

    def shown(name: str) -> ShownMap:
        patterns = attended.patterns(name)
        kinds = [
            KindRow(
                _LETTERS[one.kind], one.kind, one.count, [(*head.place, head.scores[one.kind]) for head in one.clearest], KINDS[one.kind]
            )
            for one in summarize(patterns, _CLEAREST)
        ]
        heads = [(one.kind, _LETTERS[one.kind]) for one in patterns]
        chosen = (looked.layer, looked.head) if looked.layer is not None and looked.head is not None else None
        return ShownMap(name, *attended.axes(name), attended.maps[name], attended.visible[name], kinds, heads, chosen)

    following = [
        NextRow(token, one.actual, one.probability, one.likeliest)
        for token, one in zip(attended.axes("decoder")[0], attended.next_tokens or (), strict=False)
    ]
    maps = [shown(name) for name in attended.maps]
    return attention_page(checkpoint, attended.tokens, attended.target_tokens, maps, following, datetime.date.today())


def _summary_lines(patterns: "Sequence[HeadPattern]", heads: int, width: int) -> Iterator[list[Part]]:
    """Yield a line for each kind of heads, with their number and the clearest ones; then a line for each layer, with a letter per head."""
    from tfkit.engine.inference.head_patterns import summarize

    for one in summarize(patterns, _CLEAREST):
        words = [f"{_LETTERS[one.kind]} {one.kind:<14}", f"{one.count:>4} head{'s' if one.count != 1 else ' '}"]
        if one.clearest:
            named = [f"L{head.layer} H{head.head} {head.scores[one.kind]:.0%}," for head in one.clearest]
            words += ["clearest:", *named[:-1], named[-1].rstrip(",")]
        for index, line in enumerate(console.wrap(words, width - 4)):
            yield [(f"    {line}".rstrip() if index else line.rstrip(), "")]
    label = 3 + len(str(len(patterns) // heads - 1))
    room = max(1, width - label - 1)
    for first in range(0, len(patterns), heads):
        letters = "".join(_LETTERS[pattern.kind] for pattern in patterns[first : first + heads])
        for begin in range(0, heads, room):
            name = f"  L{first // heads}" if not begin else ""
            yield [(f"{name:<{label}} ", "dim"), (letters[begin : begin + room], "")]
    yield []


def _head_lines(attended: "AttendedText", name: str, layer: int, head: int, width: int) -> Iterator[list[Part]]:
    """Yield a line for each query token: the head's weights on all keys as shades, if the line has room, and the keys of largest weight."""
    pattern = next(one for one in attended.patterns(name) if (one.layer, one.head) == (layer, head))
    weights, visible = attended.maps[name][layer, head], attended.visible[name][layer]
    queries, keys = ([console.result_token(token) for token in tokens] for tokens in attended.axes(name))
    scored = f", {pattern.scores[pattern.kind]:.0%}" if pattern.kind in pattern.scores else ""
    yield from plain_lines(f"{name}, layer {layer}, head {head}: {pattern.kind}{scored}", width, "bold")
    label = min(LABEL, max(map(console.columns_of, queries)), max(4, width // 3))
    shows_shades = label + 1 + len(keys) + 2 + LABEL <= width
    for place, token in enumerate(queries):
        parts = [(console.fitted(token, label), "")]
        if shows_shades:
            shades = (_shade(weight) if seen else _UNSEEN for weight, seen in zip(weights[place], visible[place], strict=True))
            parts.append((f" {''.join(shades)} ", ""))
        room = width - sum(console.columns_of(text) for text, _ in parts)
        yield [*parts, *_strongest(weights[place], keys, room, label)]
    if shows_shades:
        yield from plain_lines("columns: all tokens in order; blank: not visible; . under 5%, ░ from 5%, ▒ 25%, ▓ 50%, █ 75%", width)
    yield []


def _strongest(weights: "NDArray[np.float32]", keys: Sequence[str], room: int, label: int) -> Iterator[Part]:
    """Yield the key of largest weight, and up to three more whose weights are 5 % or more, as long as they fit into `room` columns."""
    for index, place in enumerate(weights.argsort()[::-1][:_STRONGEST].tolist()):
        weight = float(weights[place])
        text = f" {_shade(weight)} {console.cut(keys[place], label)} {weight:.0%}"
        room -= console.columns_of(text)
        if index and (room < 0 or weight < _SHADES[-2][0]):
            return
        yield text, "bold" if weight >= 0.5 else "" if weight >= 0.25 else "dim"


def _next_lines(attended: "AttendedText", width: int) -> Iterator[list[Part]]:
    """Yield lines for each token: the next token of the text with its probability, and the most likely next tokens."""
    assert attended.next_tokens is not None
    _, read = attended.axes("decoder")
    room = max(1, (width - len(" ->  100%")) // 2)
    for token, expected in zip(read, attended.next_tokens, strict=True):
        likeliest = [
            f"{console.cut(console.result_token(one), width - 9)} {_percent(probability)}" for one, probability in expected.likeliest
        ]
        actual = ""
        if expected.actual is not None and expected.probability is not None:
            actual = f" {console.cut(console.result_token(expected.actual), room)} {_percent(expected.probability)}"
        is_right = expected.actual == expected.likeliest[0][0]
        yield [(f"{console.cut(console.result_token(token), room)} ->", "bold"), (actual, "green" if is_right else "")]
        yield from ([(f"    {line}", "dim" if expected.actual is not None else "")] for line in console.wrap(likeliest, width - 4))
    yield from plain_lines(
        "token -> the next one in the text with its probability, green if it is the likeliest; below: the likeliest ones", width
    )


def _percent(probability: float) -> str:
    return f"{probability:.0%}" if probability >= 0.1 else f"{probability:.1%}"


def _shade(weight: "float | np.float32") -> str:
    return next(shade for least, shade in _SHADES if weight >= least)


def plain_lines(text: str, width: int, style: str = "") -> Iterator[list[Part]]:
    """Yield a text in lines of at most `width` characters."""
    yield from ([(line, style)] for line in console.wrap(text.split(" "), width))
