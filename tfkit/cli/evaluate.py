"""tfkit evaluate: how well a checkpoint predicts texts, and whether that is good enough."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
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
    from tfkit.cli.evaluate_rows import Read
    from tfkit.cli.session import Session
    from tfkit.cli.settings import Settings
    from tfkit.data import Source, TokenStream
    from tfkit.evaluation.scores import Scores
    from tfkit.evaluation.text import TextScore
    from tfkit.hub import Loaded
    from tfkit.recipe.objectives import ObjectiveSection
    from tfkit.recipe.schema import Recipe

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
    device: options.Device = None,
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Score a model: texts with a language model (loss, perplexity, bits per byte), rows with what another was trained for.

    What is scored is --data, else the recipe's data.validation, else that of the run that made the checkpoint. A checkpoint from elsewhere
    needs no recipe: "objective={kind: classification}" says what it was trained for. --run keeps the result, and the energy in
    emissions.csv, in a run folder.
    """
    from tfkit.cli.session import session
    from tfkit.cli.settings import read_settings, split_arguments
    from tfkit.recipe.objectives import CausalLMSection, trained_for
    from tfkit.run import strict_json

    words, changes = split_arguments([*([recipe] if recipe else []), *(overrides or ())])
    if len(words) > 1:
        raise UsageError(f"evaluate takes one recipe, not {' and '.join(words)}; changes to it are written key=value")
    if predictions is not None and not predictions.resolve().parent.is_dir():
        raise MachineError(f"{predictions}: the folder {predictions.parent} does not exist; make it first")

    from tfkit.hub import find_checkpoint

    folder = find_checkpoint(checkpoint)
    settings = read_settings(words[0] if words else None, folder, changes, _SECTIONS, data)
    objective = trained_for(settings.recipe.objective) if settings.recipe else CausalLMSection()
    gates = [parse_gate(text, _metrics(objective, settings.evaluation.text_metrics)) for text in fail_if or ()]
    by_text = settings.recipe is None or isinstance(objective, CausalLMSection)
    if predictions is not None and objective.reads_text and not by_text:
        raise UsageError(f"--predictions: of texts and of labelled rows, and {objective.kind} has neither; leave it out")
    with session("evaluate", settings.carbon, run) as work:
        with work.signals.at_once():
            loaded = _load(folder, settings, device, threads)
        if settings.recipe is None or by_text:
            found = _score_texts(loaded, settings, work)
        else:
            found = _score_rows(loaded, settings.recipe, work)
        if predictions is not None:
            _write_predictions(predictions, found.predictions)
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
    data: "Sequence[Read]"
    predictions: list[dict[str, Any]]
    scores: "Scores | None" = None  # the same metrics of resamples, where rows can be told apart
    decoding: dict[str, Any] | None = None


def _metrics(objective: "ObjectiveSection", text_metrics: Collection[str]) -> list[str]:
    """What the evaluation of an objective may tell."""
    from tfkit.recipe.objectives import OF_TEXTS

    return [name for name in objective.metrics if OF_TEXTS.get(name) in (None, *text_metrics)]


def _score_texts(loaded: "Loaded", settings: "Settings", work: "Session") -> _Found:
    from tfkit.cli.training_data import set_names
    from tfkit.cli.validation import of_sets
    from tfkit.evaluation.scores.sums import of_text_score

    config = loaded.config
    if config.head.kind != "lm" or config.encoder_layers:
        what = "is no language model" if config.head.kind != "lm" else "has an encoder"
        raise UsageError(
            f"{loaded.folder}: this model {what}, so a text alone has no score; give the recipe with its objective, "
            'or say it: "objective={kind: classification}"'
        )
    sources = _sources(settings)
    streams = _streams(sources, loaded, work)
    scores = _score(loaded, streams, settings, work)
    whole = sum(scores[1:], start=scores[0])
    tokens = whole.target_tokens + len(whole.targets)
    lines = _text_predictions(sources, scores)
    names = set_names(settings.data, sources) if settings.data is not None else []
    metrics = of_sets(whole.metrics(), names, [score.metrics() for score in scores])
    return _Found(metrics, len(whole.targets), tokens, streams[: len(scores)], lines, of_text_score(whole))


def _score_rows(loaded: "Loaded", recipe: "Recipe", work: "Session") -> _Found:
    from tfkit.cli.evaluate_likelihood import evaluate_likelihood
    from tfkit.cli.evaluate_rows import evaluate_rows
    from tfkit.recipe.objectives import JudgingSection

    found = (evaluate_likelihood if isinstance(recipe.objective, JudgingSection) else evaluate_rows)(recipe, loaded, work)
    return _Found(found.metrics, found.examples, found.tokens, found.stored, found.predictions, found.scores, found.decoding)


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
    from tfkit.evaluation.scores.bootstrap import intervals

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
        "data": [{"name": one.name, "fingerprint": one.fingerprint} for one in found.data],
        "batch_size": settings.evaluation.batch_size,
        "precision": settings.evaluation.precision,
        "context_length": loaded.config.context_length,
        **decoding,
        **energy_fields(reading),
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


def _text_predictions(sources: list["Source"], scores: list["TextScore"]) -> list[dict[str, Any]]:
    """Of each text, in order: its place, its loss (nats a token; null without a target), target tokens and their bytes."""
    lines = []
    for source, score in zip(sources, scores, strict=False):
        places = (row.place for row in source.rows() if row.text)  # a row without text is no document of the stream
        for place, loss, tokens, size in zip(places, score.losses, score.targets, score.bytes, strict=False):
            mean = float(loss / tokens) if tokens else None
            lines.append({"place": place, "loss": mean, "tokens": int(tokens), "bytes": int(size)})
    return lines


def _write_predictions(path: Path, predictions: Iterable[dict[str, Any]]) -> None:
    """A JSON line each, in order."""
    from tfkit.run import strict_json
    from tfkit.run.durable import write_atomically

    try:
        write_atomically(path, "".join(strict_json.dumps(one) + "\n" for one in predictions))
    except OSError as error:
        raise MachineError(f"{path}: cannot be written: {error.strerror}") from error
