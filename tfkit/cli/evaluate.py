"""tfkit evaluate: how well a checkpoint predicts texts, and whether that is good enough."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.errors import MachineError, ModelError, UsageError
from tfkit.evaluation.gate import check_gates, parse_gate

if TYPE_CHECKING:
    from tfkit.carbon import Reading
    from tfkit.cli.session import Session
    from tfkit.cli.settings import Settings
    from tfkit.data import Source, TokenStream
    from tfkit.evaluation.text import TextScore
    from tfkit.hub import Loaded
    from tfkit.objectives.build import Stored
    from tfkit.recipe.schema import Recipe

_SECTIONS = ("data", "objective", "evaluation", "carbon")


def evaluate(
    checkpoint: options.Checkpoint,
    recipe: options.OptionalRecipe = None,
    overrides: options.Overrides = None,
    data: Annotated[str | None, typer.Option(metavar="F", help="A file, folder or glob to score; else data.validation.")] = None,
    fail_if: Annotated[list[str] | None, typer.Option(metavar="GATE", help='End with 8 if true: "perplexity > 20".')] = None,
    predictions: Annotated[Path | None, typer.Option(metavar="F", help="Write a JSON line a text: place, loss, tokens, bytes.")] = None,
    run: options.RunFolder = None,
    device: options.Device = None,
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Score a model: texts with a language model (loss, perplexity, bits per byte), rows with what another was trained for.

    What is scored is --data, else the recipe's data.validation, else that of the run that made the checkpoint. --run keeps the result,
    and the energy in emissions.csv, in a run folder.
    """
    from tfkit.cli.session import session
    from tfkit.cli.settings import quoted, read_settings, split_arguments
    from tfkit.recipe.objectives import CausalLMSection, trained_for
    from tfkit.run import strict_json

    words, changes = split_arguments([*([recipe] if recipe else []), *(overrides or ())])
    if len(words) > 1:
        raise UsageError(f"evaluate takes one recipe, not {' and '.join(words)}; changes to it are written key=value")
    if data is not None:  # before the others, so that data.validation.0.text=... can name the column
        changes.insert(0, f"data.validation=[{{path: {quoted(data)}}}]")
    if predictions is not None and not predictions.resolve().parent.is_dir():
        raise MachineError(f"{predictions}: the folder {predictions.parent} does not exist; make it first")

    from tfkit.hub import find_checkpoint

    folder = find_checkpoint(checkpoint)
    settings = read_settings(words[0] if words else None, folder, changes, _SECTIONS)
    objective = trained_for(settings.recipe.objective) if settings.recipe else CausalLMSection()
    gates = [parse_gate(text, objective.metrics) for text in fail_if or ()]
    with session("evaluate", settings.carbon, run) as work:
        with work.signals.at_once():
            loaded = _load(folder, settings, device, threads)
        if settings.recipe is None or isinstance(objective, CausalLMSection):
            found = _score_texts(loaded, settings, predictions, work)
        else:
            found = _score_rows(loaded, settings.recipe, predictions, work)
        reading = work.meter.fresh_reading()
        result = _result(loaded, found, settings, reading)
        work.finish(result)
        if json:
            console.json(strict_json.loads(strict_json.dumps(result)))
        else:
            console.result(_table(result, reading))
    check_gates(gates, result["metrics"])


@dataclass(frozen=True)
class _Found:
    """What was measured, and of what."""

    metrics: dict[str, float]
    examples: int
    tokens: int
    data: "Sequence[Stored]"


def _score_texts(loaded: "Loaded", settings: "Settings", predictions: Path | None, work: "Session") -> _Found:
    config = loaded.config
    if config.head.kind != "lm" or config.encoder_layers:
        what = "is no language model" if config.head.kind != "lm" else "has an encoder"
        raise UsageError(f"{loaded.folder}: this model {what}, so a text alone has no score; give the recipe with its objective and rows")
    sources = _sources(settings)
    streams = _streams(sources, loaded, work)
    scores = _score(loaded, streams, settings, work)
    if predictions is not None:
        _write_predictions(predictions, sources, scores)
    whole = sum(scores[1:], start=scores[0])
    return _Found(dict(whole.metrics()), len(whole.targets), whole.target_tokens + len(whole.targets), streams[: len(scores)])


def _score_rows(loaded: "Loaded", recipe: "Recipe", predictions: Path | None, work: "Session") -> _Found:
    from tfkit.cli.evaluate_rows import evaluate_rows

    if predictions is not None:
        raise UsageError(f"--predictions: of texts only so far, and {recipe.objective.kind} scores rows; leave it out")
    scored = evaluate_rows(recipe, loaded, work)
    return _Found(scored.metrics, scored.examples, scored.tokens, scored.stored)


def _load(folder: Path, settings: "Settings", device: str | None, threads: int | None) -> "Loaded":
    """The model in the arithmetic of the settings."""
    import torch

    from tfkit.hub import load
    from tfkit.training.device import pick_device

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load(folder, device=pick_device(device), dtype=getattr(torch, settings.evaluation.precision))
    if loaded.codec is None:
        raise ModelError(f"{folder}: no tokenizer.json here, and texts cannot be scored without; put the model's own tokenizer beside it")
    return loaded


def _sources(settings: "Settings") -> list["Source"]:
    from tfkit.data.sources import validation_sources

    sources = validation_sources(settings.data) if settings.data is not None else []
    if not sources:
        raise UsageError("there are no texts to score: give them as --data F, or a recipe with data.validation")
    return sources


def _streams(sources: list["Source"], loaded: "Loaded", work: "Session") -> list["TokenStream"]:
    from tfkit.data import token_stream

    assert loaded.codec is not None
    streams = []
    for source in sources:
        with console.progress(f"tokenizing {source.name}", source.size_bytes, "bytes") as bar, work.signals.at_once():
            streams.append(token_stream(source, loaded.codec, bar.advance))
        if note := streams[-1].describe_skipped():
            console.warn(note)
    return streams


def _score(loaded: "Loaded", streams: list["TokenStream"], settings: "Settings", work: "Session") -> list["TextScore"]:
    from tfkit.evaluation.text import count_targets, score_streams

    limit = settings.evaluation.max_tokens
    total = sum(int(count_targets(stream).sum()) for stream in streams)
    bar = console.progress("scoring", total if limit is None else min(total, limit), "tokens")
    with bar as shown, work.signals.at_once("there is no result, since only all texts together give one"):
        scores = score_streams(
            loaded.model,
            streams,
            loaded.config.context_length,
            settings.evaluation.batch_size,
            max_tokens=limit,
            progress=shown.advance,
        )
    assert scores is not None  # nothing asked it to stop
    return scores


def _result(loaded: "Loaded", found: _Found, settings: "Settings", reading: "Reading") -> dict[str, Any]:
    """The document of docs/cli.md."""
    from tfkit.cli.session import energy_fields

    return {
        "schema_version": 1,
        "metrics": found.metrics,
        "examples": found.examples,
        "tokens": found.tokens,
        "checkpoint": str(loaded.folder),
        "data": [{"name": one.name, "fingerprint": one.fingerprint} for one in found.data],
        "batch_size": settings.evaluation.batch_size,
        "precision": settings.evaluation.precision,
        "context_length": loaded.config.context_length,
        **energy_fields(reading),
    }


def _table(result: dict[str, Any], reading: "Reading") -> str:
    """The result for people."""
    metrics = dict(result["metrics"])
    if "target_tokens" in metrics:  # of texts
        rows = {
            "loss": f"{metrics['loss']:.4f} nats a token",
            "perplexity": f"{metrics['perplexity']:.2f}",
            "bits per byte": f"{metrics['bits_per_byte']:.4f}",
            "scored": f"{metrics['target_tokens']:,} tokens of {result['examples']:,} texts",
        }
    else:
        rows = {name.replace("_", " "): f"{value:.4f}" for name, value in metrics.items()}
        rows["scored"] = f"{result['examples']:,} rows"
    rows |= {"data": ", ".join(entry["name"] for entry in result["data"]), "checkpoint": result["checkpoint"]}
    if result["energy_kwh"] is not None:
        energy, mass = console.format_energy(reading.energy_wh), console.format_mass(reading.emissions_g)
        rows["energy"] = f"{energy}, {mass} CO2e ({reading.place})"
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def _write_predictions(path: Path, sources: list["Source"], scores: list["TextScore"]) -> None:
    """One JSON line a text, in order: its place, its loss (nats a token; null without a target), target tokens and their bytes."""
    from tfkit.run import strict_json
    from tfkit.run.durable import write_atomically

    lines = []
    for source, score in zip(sources, scores, strict=False):
        places = (row.place for row in source.rows() if row.text)  # a row without text is no document of the stream
        for place, loss, tokens, size in zip(places, score.losses, score.targets, score.bytes, strict=False):
            mean = float(loss / tokens) if tokens else None
            lines.append(strict_json.dumps({"place": place, "loss": mean, "tokens": int(tokens), "bytes": int(size)}) + "\n")
    try:
        write_atomically(path, "".join(lines))
    except OSError as error:
        raise MachineError(f"{path}: cannot be written: {error.strerror}") from error
