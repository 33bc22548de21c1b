"""tfkit evaluate: how good a checkpoint is at texts, labelled rows or choices, and whether that is good enough."""

import errno
import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.errors import MachineError, ModelError, UsageError
from tfkit.evaluation.gate import check_gates, parse_gate
from tfkit.units import format_energy, format_mass

if TYPE_CHECKING:
    from tfkit.carbon import Reading
    from tfkit.engine.listener import StopRequest
    from tfkit.engine.scoring.by_row import Scored
    from tfkit.engine.session import Session
    from tfkit.engine.settings import Settings
    from tfkit.hub import Loaded
    from tfkit.recipe.schema.objective_facts import ObjectiveSection

_SECTIONS = ("data", "objective", "evaluation", "generation", "carbon")
_SEED = 1  # of the bootstrap


def evaluate(
    checkpoint: options.Checkpoint,
    recipe: options.OptionalRecipe = None,
    overrides: options.Overrides = None,
    data: Annotated[str | None, typer.Option(metavar="F", help="A file, folder or glob to score; else data.validation.")] = None,
    fail_if: Annotated[list[str] | None, typer.Option(metavar="GATE", help='End with 8 if true: "perplexity > 20".')] = None,
    predictions: Annotated[Path | None, typer.Option(metavar="F", help="Write a JSON line a row: place, loss, answer.")] = None,
    run: options.RunFolder = None,
    no_verify: options.NoVerify = False,
    device: options.Device = None,
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Score a model: texts with a language model (loss, perplexity, bits per byte), rows with what another was trained for.

    What is scored is --data, else the recipe's data.validation, else that of the run that made the checkpoint. A checkpoint from elsewhere
    needs no recipe: "objective={kind: classification}" says what it was trained for; minimal_pairs and few_shot ask any language
    model (docs/evaluation.md). --run keeps the result, and the energy in emissions.csv, in a run folder.
    """
    from tfkit.cli.session import command_session
    from tfkit.engine.session import WHOLE
    from tfkit.engine.settings import read_settings, settings_inputs, split_arguments
    from tfkit.recipe.schema.objective_sections import CausalLMSection
    from tfkit.run import strict_json

    words, changes = split_arguments([*([recipe] if recipe else []), *(overrides or ())])
    if len(words) > 1:
        raise UsageError(f"evaluate takes one recipe, not {' and '.join(words)}; changes to it are written key=value")
    if predictions is not None:
        _require_writable(predictions)

    from tfkit.hub import find_checkpoint

    folder = find_checkpoint(checkpoint)
    settings = read_settings(words[0] if words else None, folder, changes, _SECTIONS, data)
    inputs = settings_inputs(settings, folder, checkpoint)
    if predictions is not None:
        inputs.refuse_file(predictions, "--predictions")
    if run is not None:
        inputs.refuse_folder(run, "--run")
    objective = settings.recipe.objective.trained_for if settings.recipe else CausalLMSection()
    gates = [parse_gate(text, _metrics(objective, settings.evaluation.text_metrics)) for text in fail_if or ()]
    if predictions is not None and objective.reads_text and objective.scored_by == "row":
        raise UsageError(f"--predictions: of texts and of labelled rows, and {objective.kind} has neither; leave it out")
    with command_session("evaluate", settings.carbon, run, threads) as work:
        with work.stop.at_once():
            loaded = _load(folder, settings, device, threads)
        found = _score(loaded, settings, work, each=predictions is not None)
        with work.stop.at_once(WHOLE):
            reading = work.own(work.meter.stop())  # which waits for a first measurement
            result = _result(loaded, found, settings, reading)
        work.finish(result, data=result["data"])
        with suppress(console.ReaderGone):  # the gates judge all the same, and a file may be wanted
            if json:
                console.json(strict_json.loads(strict_json.dumps(result)))
            else:
                console.result(_table(result, reading))
        if predictions is not None:
            _write_predictions(predictions, found.predictions, work.stop)
    check_gates(gates, result["metrics"])


def _metrics(objective: "ObjectiveSection", text_metrics: Collection[str]) -> list[str]:
    """What the evaluation of an objective may tell."""
    from tfkit.recipe.schema.objective_sections import OF_TEXTS

    return [name for name in objective.metrics if OF_TEXTS.get(name) in (None, *text_metrics)]


def _score(loaded: "Loaded", settings: "Settings", work: "Session", *, each: bool) -> "Scored":
    """What there is to tell; `each`: of every row, too."""
    from tfkit.engine.scoring.by_likelihood import evaluate_likelihood
    from tfkit.engine.scoring.by_row import evaluate_rows
    from tfkit.engine.scoring.by_text import evaluate_texts

    recipe = settings.recipe
    if recipe is None or recipe.objective.trained_for.scored_by == "text":
        return evaluate_texts(settings, loaded, work, each=each)
    return (evaluate_likelihood if recipe.objective.scored_by == "likelihood" else evaluate_rows)(recipe, loaded, work)


def _load(folder: Path, settings: "Settings", device: str | None, threads: int | None) -> "Loaded":
    """The model in the arithmetic of the settings."""
    import torch

    from tfkit.adapters import load
    from tfkit.training.device import pick_device

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load(folder, device=pick_device(device), dtype=getattr(torch, settings.evaluation.precision))
    if loaded.codec is None:
        raise ModelError(f"{folder}: no tokenizer.json here, and texts cannot be scored without; put the model's own tokenizer beside it")
    return loaded


def _result(loaded: "Loaded", found: "Scored", settings: "Settings", reading: "Reading") -> dict[str, Any]:
    """The document of docs/cli.md."""
    from tfkit.engine.session import energy_fields, place_fields
    from tfkit.evaluation.bootstrap import intervals

    resamples = settings.evaluation.bootstrap if found.examples > 1 else None
    spread = intervals(found.scores, found.examples, resamples, _SEED) if found.scores is not None and resamples is not None else {}
    decoding = {} if found.decoding is None else {"decoding": found.decoding}
    return {
        "schema_version": 1,
        "metrics": found.metrics,
        "intervals": spread,
        "bootstrap": resamples if spread else None,
        "examples": found.examples,
        "tokens": found.tokens,
        "checkpoint": str(loaded.folder),
        "data": [{"name": one.name, "fingerprint": one.fingerprint} for one in found.stored],
        "batch_size": settings.evaluation.batch_size,
        "precision": settings.evaluation.precision,
        "context_length": loaded.config.context_length,
        **decoding,
        **energy_fields(reading),
        **place_fields(reading),
    }


def _table(result: dict[str, Any], reading: "Reading") -> str:
    """The result for people."""
    metrics, units = dict(result["metrics"]), {}
    scored = f"{result['examples']:,} rows"
    if "target_tokens" in metrics:  # of texts
        units = {"loss": " nats a token"}
        scored = f"{metrics.pop('target_tokens'):,} tokens of {result['examples']:,} texts"
    digits = {"perplexity": 2, "bleu": 2, "chrf": 2}
    rows = {}
    for name, value in metrics.items():
        places = digits.get(name.rpartition(".")[2], 4)
        low, high = result["intervals"].get(name, (value, value))
        spread = f"  (95 %: {low:.{places}f} to {high:.{places}f})" if low < high else ""
        rows[name.replace("_", " ")] = f"{value:.{places}f}{units.get(name, '')}{spread}"
    rows |= {"scored": scored, "data": ", ".join(entry["name"] for entry in result["data"]), "checkpoint": result["checkpoint"]}
    if result["energy_kwh"] is not None:
        energy, mass = format_energy(reading.energy_wh), format_mass(reading.emissions_g)
        rows["energy"] = f"{energy}, {mass} CO2e ({reading.place})"
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def _require_writable(path: Path) -> None:
    """Raise MachineError for what cannot be written: found before anything is computed."""
    try:
        folder = path.absolute().parent
        if not folder.is_dir():
            raise MachineError(f"{path}: the folder {path.parent} does not exist; make it first")
        if path.is_dir():
            raise MachineError(f"{path}: is a folder; --predictions takes the name of a file")
        written = path if path.exists() and not _takes_a_new_file(path) else path.resolve().parent
        if not written.exists():
            raise FileNotFoundError(errno.ENOENT, f"it leads to {path.resolve()}, and there is no such folder")
        if not os.access(written, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise MachineError(f"{path}: cannot be written ({error.strerror}); give another place for --predictions") from error


def _takes_a_new_file(path: Path) -> bool:
    """Whether a new file may take the name; not that of a device, of a pipe or of a link."""
    return not path.is_symlink() and (path.is_file() or not path.exists())


def _write_predictions(path: Path, predictions: Iterable[dict[str, Any]], stop: "StopRequest") -> None:
    """A JSON line each, in order. A pipe may have no reader yet, or a slow one: a signal ends that."""
    from tfkit.durable import write_atomically
    from tfkit.run import strict_json

    text = "".join(strict_json.dumps(one) + "\n" for one in predictions)
    try:
        if _takes_a_new_file(path):
            write_atomically(path, text)
        else:
            with stop.at_once("the result is told, the predictions are not all written"):
                path.write_text(text, encoding="utf-8", newline="\n")
    except BrokenPipeError:
        return  # its reader has had enough
    except OSError as error:
        raise MachineError(f"{path}: cannot be written ({error.strerror}); give another place for --predictions") from error
