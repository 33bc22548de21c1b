"""The command tfkit inspect, which shows the first rows of a training, token by token or as attention masks, or a model's attention."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.cli.inspect_attention import LABEL, Looked, Part, plain_lines, show_attention

if TYPE_CHECKING:
    from tfkit.engine.tools.inspection import Inspection, ShownMask, ShownToken

EXAMPLES = (
    "tfkit inspect gpt2-stdlib",
    "tfkit inspect gsm8k-chat data.train.0.path=train.jsonl",
    "tfkit inspect gpt2-stdlib --masks --show 1 data.sequence_length=32",
    'tfkit inspect --from runs/my --attention "the cat sat on the mat"',
    'tfkit inspect --from runs/my --attention "the cat sat on the mat" --layer 0 --head 2',
    'tfkit inspect --from runs/my --attention "the cat sat on the mat" --html attention.html',
)

_GUTTER = {"loss": "loss  ", "no loss": "      ", "padding": "pad   "}
_STYLE = {"loss": "green", "no loss": "", "padding": "dim"}
# Texts for the values of some facts about a row, by the name of the fact and then by the value.
_VALUES: dict[str, dict[int, str]] = {"next_sentence": {0: "follows", 1: "does not follow"}, "right": {True: "yes", False: "no"}}
_DRAWN = {"#": "█"}  # a mask's characters, and what is drawn for them; others are drawn as they are
_PARTLY = "▒"  # for a block of cells (pairs of query and key) of which only some are visible


def inspect(
    recipe: options.OptionalRecipe = None,
    overrides: options.Overrides = None,
    *,
    tuned: options.Tuned,
    show: Annotated[int | None, typer.Option(min=1, metavar="N", help="Show N rows; by default 3.")] = None,
    masks: Annotated[
        bool, typer.Option("--masks", help="Show which tokens each token of these rows sees, and why not the others.")
    ] = False,
    looked: Looked,
    no_verify: options.NoVerify = False,
    json: options.Json = False,
) -> None:
    """Show the first rows of the first step: every token, whether it has a loss, its label, padding, and where documents end.

    Nothing is trained. Text is tokenized as in training, and is kept in the cache. Without a recipe, as in `tfkit finetune`, the task
    is recognised by the columns of the data and the kind of the model.

    With --attention TEXT it shows what the heads of a checkpoint attend to: which of them to the token before, to the first, and so on; or
    one head, token by token. With --masks it shows, of the rows of a training, which tokens each token sees, and why not the others.
    """
    width = shutil.get_terminal_size().columns - 1
    of_rows = [name for name, value in (("--masks", masks), ("--show", show)) if value]
    looked.check(tuned, [*([recipe] if recipe is not None else []), *(overrides or ()), *of_rows])
    if looked.attention is not None:
        assert tuned.checkpoint is not None
        show_attention(tuned.checkpoint, looked, as_json=json, width=width)
        return
    from tfkit.cli.session import command_session
    from tfkit.recipe.schema.carbon_section import CarbonSection

    request = tuned.request_of("inspect", recipe, overrides)
    shown = request.written.recipe if request.written is not None else None
    is_trained = shown is None or tuned.checkpoint is not None or tuned.data is not None  # False: a recipe alone, perhaps for evaluation
    if is_trained:
        request.check()
    with command_session("inspect", CarbonSection(enabled=False)) as session:
        from tfkit.engine.tools.inspection import inspect_first_step

        if is_trained:
            with session.stop.at_once():
                shown = request.decide(session.listener).recipe
        assert shown is not None
        inspection = inspect_first_step(shown, show or 3, session, masks=masks)
    if json:
        console.json(inspection.to_dict())
        return
    for line in lines(inspection, width) if inspection.masks is None else _mask_lines(inspection.masks, width):
        console.result_parts(line)


def lines(inspection: "Inspection", width: int, most: int | None = None) -> Iterator[list[Part]]:
    """Yield the output line by line. Of a row with more than `most` lines, only the first and the last ones are shown; None: no limit."""
    for place, row in inspection.rows:
        real = sum(token.kind != "padding" for token in (*row.tokens, *(row.target or ())))
        texts = {name: _fact_text(name, value) for name, value in row.facts.items() if name != "row"}  # `place` names the row already
        facts = "".join(f", {name.replace('_', ' ')}: {text}" for name, text in texts.items())
        with_loss = f", {row.targets:,} with a loss" if row.targets or not {"label", "labels"} & row.facts.keys() else ""
        yield [(f"{place}: {real:,} tokens{with_loss}{facts}", "bold")]
        yield from _shorten(list(_token_lines(row.tokens, width)), most)
        if row.target is not None:
            yield [("  to write", "bold")]
            yield from _shorten(list(_token_lines(row.target, width)), most)
        yield []
    totals = inspection.totals
    targets = ", ".join(f"{count:,} {term}" for term, count in totals["targets"].items())
    yield [(f"first step: {totals['rows']:,} rows, {totals['tokens']:,} tokens, targets: {targets}", "")]
    yield [(f"epoch: {totals['rows_an_epoch']:,} rows; objective {inspection.objective}", "")]
    yield [("loss", "green"), (": predicted; token->label: the first is read, the second predicted", "")]
    yield [("no mark: read, not predicted   ", ""), ("pad", "dim"), (": padding   --- another document", "")]
    for note in inspection.legend:
        yield [(note, "")]


def _fact_text(name: str, value: Any) -> Any:
    return ", ".join(value) or "none" if isinstance(value, list) else _VALUES.get(name, {}).get(value, value)


def _token_lines(tokens: "list[ShownToken]", width: int) -> Iterator[list[Part]]:
    """Yield the lines of a row, with a separator between documents. A line begins with `loss`, `pad` (padding) or blanks (no loss)."""
    for index, (_, document) in enumerate(groupby(tokens, key=lambda token: token.document)):
        if index:
            yield [("  ---", "bold")]
        for kind, run in groupby(document, key=lambda token: token.kind):
            words = [token.token if token.label is None else f"{token.token}->{token.label}" for token in run]
            if kind == "padding":
                words = [f"{words[0]} x {len(words)}".strip()]
            for line in console.wrap(map(console.escaped_line, words), width - len(_GUTTER[kind]) - 2):
                yield [(f"  {_GUTTER[kind]}", _STYLE[kind]), (line, _STYLE[kind])]


def _shorten(lines: list[list[Part]], most: int | None) -> list[list[Part]]:
    """Return the lines of a row; if there are more than `most`, only the first and the last lines."""
    if most is None or len(lines) <= most:
        return lines
    omitted = [(f"  ... {len(lines) - most:,} lines; `tfkit inspect` shows all", "bold")]
    return [*lines[: most - most // 2], omitted, *lines[-(most // 2) :]]


def _mask_lines(masks: "Sequence[ShownMask]", width: int) -> Iterator[list[Part]]:
    """Yield each mask's lines, one per query token, with a character per key token; or both per group of tokens, so that lines fit."""
    from tfkit.engine.tools.inspection import MEANINGS

    seen: set[str] = set()
    for mask in masks:
        yield from plain_lines(_title(mask), width, "bold")
        names = [console.result_token(token) for token in mask.queries]
        label = min(LABEL, width // 3, max(5, *map(console.columns_of, names)))
        together = -(-max(len(mask.keys), len(mask.queries)) // max(1, width - label - 1))
        if together > 1:
            yield from plain_lines(f"each character: {together} x {together} tokens", width, "dim")
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
    """Return the character for a block of cells: their own, if all have the same; else _PARTLY, if some are visible; else the commonest."""
    cells = Counter("".join(row[column : column + together] for row in rows))
    return next(iter(cells)) if len(cells) == 1 else _PARTLY if "#" in cells else max(cells, key=lambda one: cells[one])
