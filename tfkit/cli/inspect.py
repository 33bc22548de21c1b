"""tfkit inspect: the first rows of a training as the model will see them, token by token."""

import shutil
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfkit import console
from tfkit.cli import options

if TYPE_CHECKING:
    from tfkit.engine.commands.inspection import Inspection
    from tfkit.engine.commands.shown_rows import ShownToken

Part = tuple[str, str]  # a text and its style
_GUTTER = {"loss": "loss  ", "no loss": "      ", "padding": "pad   "}
_STYLE = {"loss": "green", "no loss": "", "padding": "dim"}
# The facts of a whole row in words; of a choice its row is in its place already.
_SHOWN: dict[str, dict[int, str]] = {"next_sentence": {0: "follows", 1: "does not follow"}, "right": {True: "yes", False: "no"}}
_UNSAID = ("row",)


def inspect(
    recipe: options.OptionalRecipe = None,
    overrides: options.Overrides = None,
    checkpoint: options.Start = None,
    data: options.TrainingRows = None,
    rows: Annotated[int, typer.Option("--rows", min=1, metavar="N", help="Show N rows.")] = 3,
    no_verify: options.NoVerify = False,
    json: options.Json = False,
) -> None:
    """Show the first rows of the first step: every token, whether it has a loss, its label, padding, and where documents end.

    Nothing is trained. Text is tokenized as in training, and is kept in the cache. Without a recipe, as in `tfkit finetune`, the task
    is recognised by the columns of the data and the kind of the model.
    """
    from tfkit.cli.session import command_session
    from tfkit.cli.train import tuned_recipe
    from tfkit.engine.beginning import finetuning
    from tfkit.recipe.schema.carbon_section import CarbonSection

    source, words, _ = tuned_recipe("inspect", recipe, overrides, checkpoint, data, needed=True)
    known = source.read(words) if source is not None else None
    beginning = finetuning(source, words, checkpoint) if known is None or checkpoint is not None else None
    with command_session("inspect", CarbonSection(enabled=False)) as work:
        from tfkit.engine.commands.inspection import inspect_first_step

        if beginning is not None:
            with work.stop.at_once():
                known = beginning.decide(work.listener).recipe
        assert known is not None
        found = inspect_first_step(known, rows, work)
    if json:
        console.json(found.to_dict())
        return
    for line in lines(found, shutil.get_terminal_size().columns - 1):
        console.result_parts(line)


def lines(found: "Inspection", width: int, most: int | None = None) -> Iterator[list[Part]]:
    """Yield the output, line by line; `most`: of a longer row this many lines, from both ends."""
    for place, row in found.rows:
        real = sum(token.kind != "padding" for token in (*row.tokens, *(row.target or ())))
        words = {name: _shown(name, value) for name, value in row.facts.items() if name not in _UNSAID}
        facts = "".join(f", {name.replace('_', ' ')}: {value}" for name, value in words.items())
        with_loss = f", {row.targets:,} with a loss" if row.targets or not {"label", "labels"} & row.facts.keys() else ""
        yield [(f"{place}: {real:,} tokens{with_loss}{facts}", "bold")]
        yield from _ends_of(list(_runs(row.tokens, width)), most)
        if row.target is not None:
            yield [("  to write", "bold")]
            yield from _ends_of(list(_runs(row.target, width)), most)
        yield []
    targets = ", ".join(f"{count:,} {term}" for term, count in found.totals["targets"].items())
    yield [(f"first step: {found.totals['rows']:,} rows, {found.totals['tokens']:,} tokens, targets: {targets}", "")]
    yield [(f"epoch: {found.totals['rows_an_epoch']:,} rows; objective {found.objective}", "")]
    yield [("loss", "green"), (": predicted; token->label: the first is read, the second predicted", "")]
    yield [("no mark: read, not predicted   ", ""), ("pad", "dim"), (": padding   --- another document", "")]
    for note in found.legend:
        yield [(note, "")]


def _shown(name: str, value: Any) -> Any:
    """A fact in words."""
    return ", ".join(value) or "none" if isinstance(value, list) else _SHOWN.get(name, {}).get(value, value)


def _runs(tokens: "list[ShownToken]", width: int) -> Iterator[list[Part]]:
    """Yield tokens of one kind together, wrapped, with their kind at the left; a line between documents."""
    for number, (_, document) in enumerate(groupby(tokens, key=lambda token: token.document)):
        if number:
            yield [("  ---", "bold")]
        for kind, run in groupby(document, key=lambda token: token.kind):
            words = [token.token if token.label is None else f"{token.token}->{token.label}" for token in run]
            if kind == "padding":
                words = [f"{words[0]} x {len(words)}".strip()]
            for line in _wrap(words, width - len(_GUTTER[kind]) - 2):
                yield [(f"  {_GUTTER[kind]}", _STYLE[kind]), (line, _STYLE[kind])]


def _ends_of(row: list[list[Part]], most: int | None) -> Iterator[list[Part]]:
    """Yield the lines of a row, of more than `most` the first and the last ones."""
    if most is None or len(row) <= most:
        yield from row
        return
    first, last = most - most // 2, most // 2
    yield from row[:first]
    yield [(f"  ... {len(row) - most:,} lines; `tfkit inspect` shows all", "bold")]
    yield from row[-last:]


def _wrap(words: list[str], width: int) -> Iterator[str]:
    """Yield words on lines of at most `width` columns; a longer word has a line of its own."""
    line = ""
    for word in words:
        if line and console.columns_of(line) + 1 + console.columns_of(word) > width:
            yield line
            line = word
        else:
            line = f"{line} {word}" if line else word
    yield line
