"""The arguments and options that several commands have, each declared once. Options that belong together are fields of a dataclass."""

import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tfkit import console
from tfkit.errors import UsageError
from tfkit.run.verified import unverified

if TYPE_CHECKING:
    from tfkit.engine.request.training_request import TrainingKind, TrainingRequest
    from tfkit.recipe import RecipeText


def _skip_verification(context: typer.Context, no_verify: bool) -> bool:
    if no_verify:
        context.with_resource(unverified())  # a context that is left when the command ends
    return no_verify


def _set_quiet(quiet: bool) -> bool:
    if quiet:
        console.set_quiet(True)
    return quiet


def recipe_names(incomplete: str) -> list[str]:
    """Return the names of bundled recipes that begin with `incomplete`, for the completion of arguments in a shell."""
    from tfkit.recipe import bundled_recipes

    return [name for recipe in bundled_recipes() if (name := recipe.name.rpartition("/")[2]).startswith(incomplete)]


_RECIPE = "A recipe: a path, or the name of a bundled one."
Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help=_RECIPE, autocompletion=recipe_names)]
OptionalRecipe = Annotated[str | None, typer.Argument(metavar="RECIPE", help=_RECIPE, autocompletion=recipe_names)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe: a dotted path and a YAML value; the last one wins.")
]
ANY_MODEL = "A checkpoint, a run folder, a Hugging Face model folder, or hub:org/name@revision."
Checkpoint = Annotated[str, typer.Option("--from", metavar="CKPT", help=ANY_MODEL)]
Start = Annotated[str | None, typer.Option("--from", metavar="CKPT", help="The checkpoint to start from; by default model.from.")]
TrainingRows = Annotated[str | None, typer.Option(metavar="F", help="A file, folder or glob of rows to train on; by default data.train.")]
Columns = Annotated[str | None, typer.Option(metavar="NAMES", help='The columns of --data: "text=question,label=topic".')]
Tokens = Annotated[int | None, typer.Option(min=1, metavar="N", help="Train on N tokens, instead of as long as the recipe says.")]
Minutes = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        metavar="N",
        help="Train for N minutes: the speed of the first steps gives their number. At 1.2 N minutes the run is stopped.",
    ),
]
Rows = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="A quick try: N rows to train on and N held-out ones, drawn by the seed.")
]
AnsweredRows = Annotated[int | None, typer.Option(min=1, metavar="N", help="A quick try: only N of the rows, drawn by the seed.")]
RunFolder = Annotated[Path | None, typer.Option(metavar="DIR", help="The run folder.")]
Resume = Annotated[bool, typer.Option("--resume", help="Resume from the newest good checkpoint of the run folder.")]
Exact = Annotated[bool, typer.Option("--exact", help="When resuming: refuse to fall back to an older checkpoint.")]
NoVerify = Annotated[
    bool, typer.Option("--no-verify", callback=_skip_verification, help="Read models without comparing their files with their checksums.")
]
Force = Annotated[bool, typer.Option("--force", help="Start even if the planned checkpoints do not fit on the disk.")]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Run the code that the recipe of a run names, also if you have not trained with it before.")
]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1 or mps; by default the best one available.")]
_MAX_THREADS = 1024  # the number of cores of the largest machines; PyTorch itself has no limit
Threads = Annotated[int | None, typer.Option(min=1, max=_MAX_THREADS, metavar="N", help="CPU threads; by default one per core.")]
RankCount = Annotated[
    int | None, typer.Option(min=1, max=1024, metavar="N", help="Use N processes on this machine; --threads applies to each.")
]
FailIf = Annotated[list[str] | None, typer.Option(metavar="GATE", help='End with exit code 8 if this holds: "loss > 3".')]
PlannedFailIf = Annotated[list[str] | None, typer.Option(metavar="GATE", help='End with exit code 8 if this holds: "emissions_g > 50".')]
Stages = Annotated[str | None, typer.Option(metavar="NAMES", help="Use only these stages of the recipe: sft,reward.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Start nothing; print the recipe on stdout, and the first rows, steps, memory and time on stderr.")
]
Precision = Annotated[
    Literal["auto", "float32", "bf16", "int8"],
    typer.Option(
        help="The arithmetic: float32 is exact; bf16 and, on a CPU, weights of 8 bits (int8) are faster. auto: bf16 for a large model, if "
        "the processor has it and nearly all answers stay the same; else float32."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Chat = Annotated[
    bool,
    typer.Option("--chat", help="Treat prompts as a user's messages, with the checkpoint's chat template. Alone: hold a conversation."),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        callback=_set_quiet,
        is_eager=True,
        help="Print only the result, warnings, errors, automatic decisions, and one line of progress per minute.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Options of commands that use a model without training it: the run folder for the result, --no-verify, device, threads and ranks."""

    run: RunFolder = None
    no_verify: NoVerify = False
    device: Device = None
    threads: Threads = None
    ranks: RankCount = None


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The checkpoint from which a training starts, and the rows on which it trains."""

    checkpoint: Start = None
    data: TrainingRows = None
    columns: Columns = None
    rows: Rows = None

    def request(self, kind: "TrainingKind | None", recipe: str | None, changes: Sequence[str]) -> "TrainingRequest":
        """Return the request for a training with these options. `changes`: key=value arguments; `recipe`: a path, a name or None."""
        from tfkit.engine.recognition.own_data import training_request
        from tfkit.recipe import open_recipe
        from tfkit.recipe.reading.overrides import parse_overrides

        source = open_recipe(recipe) if recipe is not None else None
        named = (self.checkpoint, self.data, named_columns(self.columns))
        return training_request(kind, source, parse_overrides(changes), *named, rows=self.rows)

    def request_of(self, command: str, recipe: str | None, overrides: Sequence[str] | None) -> "TrainingRequest":
        """Return the request for a training that is only shown or planned. Raises UsageError if recipe, data and checkpoint are None."""
        chosen, changes = split_recipe(command, recipe, overrides)
        if chosen is None and self.checkpoint is None and self.data is None:
            raise UsageError(f"{command}: which training? Give a RECIPE, or --data F, and --from CKPT to train a checkpoint")
        return self.request(None, chosen, changes)

    def changed(self, overrides: Mapping[str, Any], source: "RecipeText | None") -> dict[str, Any]:
        """Return `overrides` plus these options (for the first stage, if `source` has stages). Raises UsageError for invalid --columns."""
        from tfkit.engine.recognition.own_data import tuning_overrides

        return tuning_overrides(overrides, source, self.checkpoint, self.data, named_columns(self.columns), self.rows)

    def words(self) -> list[str]:
        """Return the options that are set, as command-line arguments."""
        return option_words(("from", self.checkpoint), ("data", self.data), ("columns", self.columns), ("rows", self.rows))


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The options of an attempt (a start or resumption of a training): its permissions, device, threads and ranks."""

    exact: Exact = False
    force: Force = False
    allow_code: AllowCode = False
    no_verify: NoVerify = False
    device: Device = None
    threads: Threads = None
    ranks: RankCount = None


@dataclass(frozen=True, kw_only=True)
class Training:
    """The options of a training: its run folder, attempt, quality gates (--fail-if) and stages, and the form of its output."""

    run: RunFolder = None
    resume: Resume = False
    attempt: Attempt
    fail_if: FailIf = None
    stages: Stages = None
    dry_run: DryRun = False
    json: Json = False


def flatten_options(command: Callable[..., object]) -> Callable[..., object]:
    """Return a command with the signature that Typer needs: without dataclasses, whose fields become parameters, and with --quiet."""

    @wraps(command)
    def flat(**given: Any) -> None:
        _call(command, given)  # without --quiet, which `_set_quiet` has already applied

    quiet = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet)
    flat.__signature__ = inspect.signature(command).replace(parameters=[*_flat(command), quiet])  # type: ignore[attr-defined]
    return flat


def _flat(function: Any) -> Iterator[inspect.Parameter]:
    """Yield the parameters of a command, and in place of each parameter that is a dataclass, the fields of this dataclass."""
    for one in inspect.signature(function).parameters.values():
        yield from _flat(one.annotation) if is_dataclass(one.annotation) else [one.replace(kind=inspect.Parameter.KEYWORD_ONLY)]


def _call(function: Any, given: Mapping[str, Any]) -> Any:
    """Call a command, or construct a dataclass of options, with the values in `given` for its own parameters."""
    parameters = inspect.signature(function).parameters
    values = {name: _call(one.annotation, given) if is_dataclass(one.annotation) else given[name] for name, one in parameters.items()}
    return function(**values)


def named_columns(columns: str | None) -> dict[str, Any]:
    """Return the columns that --columns names, by role, such as text or label. Raises UsageError for a part that names no column.

    A comma begins a new part only if `role=` follows it. `choices=[a, b]` names several columns, one for each item of the list. Quotes
    preserve spaces at the beginning or end of a name: `label='topic '`.
    """
    named: dict[str, Any] = {}
    for one in re.split(r",\s*(?=\w+=)", columns) if columns is not None else ():
        role, is_named, column = (part.strip() for part in one.partition("="))
        if not (role and is_named and column):
            raise UsageError(f'--columns: {one!r} names no column; write "text=NAME,label=NAME"')
        is_list = column.startswith("[") and column.endswith("]")
        is_quoted = column[0] == column[-1] == "'" and column[1:-1] != column[1:-1].strip()
        named[role] = [part.strip() for part in column[1:-1].split(",")] if is_list else column[1:-1] if is_quoted else column
    return named


def option_words(*given: tuple[str, str | float | None]) -> list[str]:
    """Return options, given as pairs of name and value, as command-line arguments. Options whose value is None are omitted."""
    return [word for name, value in given if value is not None for word in (f"--{name}", str(value))]


def stage_names(stages: str | None) -> tuple[str, ...]:
    """Return the names of stages in the value of --stages; without that option, an empty tuple, which means all stages."""
    return tuple(name.strip() for name in stages.split(",")) if stages is not None else ()


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the positional arguments, and the key=value arguments. A file's path, or a text with a slash before "=", is positional."""
    overrides = [argument for argument in arguments if "=" in argument.partition("/")[0] and not os.path.isfile(argument)]
    return [argument for argument in arguments if argument not in overrides], overrides


def split_recipe(command: str, recipe: str | None, overrides: Sequence[str] | None) -> tuple[str | None, list[str]]:
    """Return the recipe, or None if there is none, and the key=value arguments. Raises UsageError for several recipes.

    If the user gives no recipe, Typer passes the first key=value argument as `recipe`.
    """
    words, changes = split_arguments([*([recipe] if recipe else []), *(overrides or ())])
    if len(words) > 1:
        raise UsageError(f"{command} takes one recipe, not {' and '.join(words)}; changes to it are written key=value")
    return (words[0] if words else None), changes
