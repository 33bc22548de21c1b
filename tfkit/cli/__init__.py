"""The command line: one Typer app, one file per command. A file is imported when its command is called, so that --help stays fast."""

import difflib
import importlib
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from tfkit.cli.options import flatten_options

# In the order of a project's life. Each is the function <name> of tfkit/cli/<name>.py.
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

# Short, complete command lines, shown at the end of each command's --help.
EXAMPLES: dict[str, tuple[str, ...]] = {
    "pretrain": (
        "tfkit pretrain demo",
        "tfkit pretrain --data book.txt --minutes 10 --run runs/own",
        "tfkit pretrain gpt2-stdlib training.steps=200 --run runs/short",
        "tfkit pretrain gpt2-stdlib --run runs/short --resume",
    ),
    "finetune": (
        "tfkit finetune --from hub:HuggingFaceTB/SmolLM2-135M --data notes.txt",
        "tfkit finetune --from hub:sentence-transformers/all-MiniLM-L6-v2 --data reviews.csv --run runs/reviews",
        "tfkit finetune --from runs/reviews --data more.csv --dry-run > task.yaml",
        "tfkit finetune python-packages --from runs/bert-stdlib training.epochs=1",
    ),
    "resume": ("tfkit resume runs/demo", "tfkit resume runs/demo training.steps=2000"),
    "sweep": (
        "tfkit sweep gpt2-stdlib optimizer.lr=3e-4,1e-3,3e-3 training.steps=200",
        "tfkit sweep --from runs/reviews --data more.csv optimizer.lr=1e-4,3e-4 --dry-run",
        "tfkit sweep python-packages --from runs/bert-stdlib optimizer.lr=1e-5..1e-3 --trials 8 --run runs/rates",
        "tfkit resume runs/rates",
    ),
    "evaluate": (
        "tfkit evaluate --from runs/demo",
        "tfkit evaluate --from runs/reviews --data test.csv --predictions answers.jsonl",
        'tfkit evaluate --from runs/demo --fail-if "perplexity > 20" --json',
    ),
    "predict": (
        "tfkit predict --from runs/reviews --data new.csv --out labelled.csv",
        'echo "what a film" | tfkit predict --from runs/reviews --data - --all',
    ),
    "embed": (
        "tfkit embed --from hub:sentence-transformers/all-MiniLM-L6-v2 --data reviews.csv --field review --out reviews.npy",
        'echo "what a film" | tfkit embed --from runs/reviews --data -',
    ),
    "generate": (
        'tfkit generate --from runs/demo --prompt "def read_lines(path):"',
        "tfkit generate --from hub:HuggingFaceTB/SmolLM2-135M-Instruct --chat",
        "tfkit generate --from runs/demo --input prompts.jsonl --temperature 0 > texts.jsonl",
    ),
    "runs": ("tfkit runs", "tfkit runs runs --json"),
    "report": (
        "tfkit report runs/demo",
        "tfkit report runs",
        "tfkit report runs --html report.html",
        "tfkit report runs --format csv > runs.csv",
    ),
    "track": ("tfkit track runs/demo --to wandb --project demos", "tfkit track runs/demo --to tensorboard"),
    "average": ("tfkit average runs/demo --last 2 --out models/demo-mean",),
    "replay": ("tfkit replay runs/demo",),
    "plan": (
        "tfkit plan gpt2-stdlib",
        "tfkit plan gpt2-stdlib --probe 10",
        'tfkit plan gpt2-stdlib training.steps=500 --fail-if "emissions_g > 50" --json',
        "tfkit plan --from hub:sentence-transformers/all-MiniLM-L6-v2 --data reviews.csv",
    ),
    "inspect": (
        "tfkit inspect gpt2-stdlib",
        "tfkit inspect gsm8k-chat data.train.0.path=train.jsonl",
        "tfkit inspect gpt2-stdlib --masks --show 1 data.sequence_length=32",
        'tfkit inspect --from runs/my --attention "the cat sat on the mat"',
        'tfkit inspect --from runs/my --attention "the cat sat on the mat" --layer 0 --head 2',
        'tfkit inspect --from runs/my --attention "the cat sat on the mat" --html attention.html',
    ),
    "check": (
        "tfkit check gpt2-stdlib training.steps=1000",
        "tfkit check mine.yaml --ranks 64 --json",
        "tfkit check --schema > recipe.schema.json",
    ),
    "launch": (
        "tfkit launch slurm gpt2-stdlib --nodes 4 --ranks-per-node 2 training.micro_batch_size=4 > job.sh",
        "tfkit launch skypilot gpt2-stdlib --nodes 2 > task.yaml",
    ),
    "export": ("tfkit export runs/demo --gguf demo.gguf", "tfkit export runs/demo --gguf demo-8.gguf --type q8_0"),
    "push": ("tfkit push runs/reviews me/reviews --dry-run", "tfkit push runs/reviews me/reviews"),
    "verify": ("tfkit verify runs/demo",),
    "recipes": ("tfkit recipes", "tfkit recipes gpt2-stdlib > mine.yaml", "tfkit recipes banking77 --fetch"),
    "env": ("tfkit env", "tfkit env --json"),
}


class _Command(TyperCommand):
    """A command whose help ends with examples."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        self.epilog = "\n".join(["Examples:", "", "\b", *(f"  {line}" for line in EXAMPLES[str(self.name)])])
        super().format_epilog(ctx, formatter)


class LazyGroup(TyperGroup):
    """A group of commands that imports a command only to run it or to show its help."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands, without importing any."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and return a command; None if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        function = getattr(importlib.import_module(f"tfkit.cli.{cmd_name}"), cmd_name)
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        settings = {"help_option_names": ["-h", "--help"]}
        single.command(cmd_name, cls=_Command, context_settings=settings)(flatten_options(function))
        return typer.main.get_command(single)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options, with what --install-completion changes."""
        params: list[Any] = super().get_params(ctx)
        for param in params:
            if param.name == "install_completion":
                param.help = (
                    "Install completion for the current shell: writes a script to your home folder, and for bash a line to ~/.bashrc."
                )
        return params

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Refuse an unknown command, and suggest the name that was probably meant."""
        if args and not ctx.resilient_parsing and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"No such command {args[0]!r}. " + (f"Did you mean {close[0]!r}?" if close else f"Commands: {', '.join(COMMANDS)}."))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the table of --help, without importing any command."""
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
