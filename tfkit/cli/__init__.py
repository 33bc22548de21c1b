"""The command line: one Typer app, one file per command. A command's file is imported only for that command, so that --help is fast."""

import difflib
import importlib
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from tfkit.cli.options import flatten_options

# The commands, in the order in which a project needs them. The function and the EXAMPLES of the command NAME are in tfkit/cli/NAME.py.
COMMANDS = {
    "pretrain": "Train a model from random weights.",
    "finetune": "Train a checkpoint further, for a task of yours.",
    "resume": "Continue a run as it was started, from its folder alone.",
    "sweep": "Train a recipe with several values of some fields, and compare them.",
    "runs": "List the runs of a folder: status, steps, scores, time and energy.",
    "report": "Report what runs have cost and reached: curves, totals, lineage.",
    "track": "Send the metrics of a run to wandb, mlflow, trackio, aim or TensorBoard.",
    "evaluate": "Score a model on texts, labelled rows or pairs.",
    "predict": "Predict labels, tags, numbers or answers for rows without a label.",
    "embed": "Compute a vector for each text.",
    "generate": "Let a model continue text.",
    "average": "Average a run's last checkpoints into a model folder.",
    "replay": "Repeat the step that ended a run, and name the first module that goes wrong.",
    "inspect": "Show the first rows as the model will see them.",
    "plan": "Estimate parameters, FLOPs, memory, time, energy and CO2 of a run beforehand.",
    "check": "List all errors of a recipe, in under a second.",
    "export": "Write a language model as a GGUF file, for llama.cpp.",
    "push": "Upload a model to the Hugging Face Hub, with its card and emissions.",
    "launch": "Print the file that starts a training on a cluster.",
    "verify": "Check every file of a checkpoint against its checksum.",
    "recipes": "List the bundled recipes, print one, or fetch its data.",
    "env": "Show versions, processor, devices and caches, for a bug report.",
}


def examples(name: str) -> tuple[str, ...]:
    """Return the examples, complete command lines, with which the --help of a command ends."""
    lines: tuple[str, ...] = importlib.import_module(f"tfkit.cli.{name}").EXAMPLES
    return lines


class _Command(TyperCommand):
    """A command whose help ends with examples."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        self.epilog = "\n".join(["Examples:", "", "\b", *(f"  {line}" for line in examples(str(self.name)))])
        super().format_epilog(ctx, formatter)


class LazyGroup(TyperGroup):
    """A group of commands. The file of a command is imported only to run the command or to show its help."""

    def main(self, args: Any = None, *others: Any, **named: Any) -> Any:
        """Run a command line through tfkit.__main__, so that `app()` and Typer's CliRunner report errors and exit as the program does."""
        if not named.get("standalone_mode", True):
            return super().main(args, *others, **named)
        raise SystemExit(importlib.import_module("tfkit.__main__").main(args))

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands, without importing the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and return the command of this name; None if there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        function = getattr(importlib.import_module(f"tfkit.cli.{cmd_name}"), cmd_name)
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        settings = {"help_option_names": ["-h", "--help"]}
        single.command(cmd_name, cls=_Command, context_settings=settings)(flatten_options(function))
        return typer.main.get_command(single)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options of `tfkit` itself. The help text of --install-completion is replaced by one that names the written files."""
        params: list[Any] = super().get_params(ctx)
        for param in params:
            if param.name == "install_completion":
                param.help = (
                    "Install completion for the current shell: writes a script to your home folder, and for bash a line to ~/.bashrc."
                )
        return params

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Refuse an unknown command, and suggest the command with the most similar name."""
        if args and not ctx.resilient_parsing and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"No such command {args[0]!r}. " + (f"Did you mean {close[0]!r}?" if close else f"Commands: {', '.join(COMMANDS)}."))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the table of commands in --help, without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(
    name="tfkit",
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: fast, and readable at any width and in any locale
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        import tfkit
        from tfkit import console

        console.result(f"tfkit {tfkit.__version__}")
        raise typer.Exit


@app.callback()
def tfkit(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:
    """Pretrain and fine-tune the Transformers of the field's history, with the energy and CO2 of every run."""
