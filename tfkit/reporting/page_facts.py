"""The facts that begin the HTML report: which models were trained on which data, and their scores beside those of baselines."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tfkit.recipe.schema.objective_sections import HIGHER
from tfkit.reporting.formats.model_facts import data_sources
from tfkit.reporting.page_tables import Table, truncated, value_text
from tfkit.reporting.run_facts import RunFacts, mapping_of, number_of, text_of
from tfkit.reporting.run_set import Entry, RunSet
from tfkit.run.card_facts import last_name
from tfkit.units import format_count, format_epochs, format_number_of, shown_metrics

_MOST_BARS = 20  # maximum number of runs in a table of scores
_BEST, _OTHER, _BASELINE, _BEFORE = 0, 6, 1, 7  # indices of the colours of bars
_TRAINED = [  # columns of the table of trainings
    *("model", "layers", "started from", "trained on", "held out", "objective"),
    *("optimizer", "learning rate", "schedule", "batch", "length", "computed on"),
]


class _Score(NamedTuple):
    """A row in a table of scores: the score of a run, of a baseline or of a model before training."""

    value: float  # the score
    name: str  # the name of the run or baseline that has this score, or "before training"
    kind: str  # "best run", "this run", "run", "baseline" or "untouched" (the model before training)
    colour: int  # the index of the colour of the score's bar


def answer(runs: RunSet) -> tuple[str, list[str]]:
    """Return the score of the best or only run (its status, if nothing was evaluated) and remarks; both are empty without such a run."""
    several = len(runs.entries) > 1
    entry = runs.best if several and len(runs.trained) != 1 else [*runs.trained, *runs.entries][0]
    if entry is None:
        return "", []
    run, best = entry.run, entry.run.score
    words = [entry.label if several else "", (run.listed.problem or "") if run.status != "finished" else ""]
    if best is None:
        return run.status, words
    metric, value, sign = *best, 1.0 if best[0] in HIGHER else -1.0
    references = _references(run, metric)
    if known := [one for one in references if one.kind == "baseline"]:
        other = max(known, key=lambda one: sign * one.value)
        words.append(f"{'beats' if sign * value > sign * other.value else 'does not beat'} {other.name}: {other.value:.4g}")
    words += [f"{one.name}: {one.value:.4g}" for one in references if one.kind != "baseline"]
    step, planned = (run.listed.best or {}).get("step"), run.listed.planned_steps
    words.append("" if step is None else f"step {step:,}" + (f" of {planned:,}" if type(planned) is int else ""))
    return f"{_plain(metric)} {value:.4g}", words


def score_tables(entries: Sequence[Entry], full: bool) -> list[tuple[str, Table]]:
    """Return a title and a table for each group of runs that were evaluated in the same way, except tables with a single row.

    A table has the scores of the runs, of their baselines and of their models before training, from the best to the worst.
    """
    tables = []
    for metric, scored in _groups(entries):
        first, *others = (_Score(value, entry.label, "run", _OTHER) for value, entry in scored)
        rows = [first._replace(kind="best run" if others else "this run", colour=_BEST), *others]
        rows += dict.fromkeys(one for _, entry in scored for one in _references(entry.run, metric))
        rows = sorted(rows, key=lambda row: row.value, reverse=metric in HIGHER)[: 2 * _MOST_BARS]
        most = max(abs(row.value) for row in rows) or 1.0
        texts = [[f"{row.name} ({row.kind})", f"{row.value:.4g}"] for row in rows]
        bars = [(abs(row.value) / most, row.colour) for row in rows]
        recipes = [entry.run.recipe for _, entry in scored]
        is_same = len({_data(recipe, "data.train", True) for recipe in recipes}) == 1
        data = _data(recipes[0], "data.train" if is_same else "data.validation", full)
        task = [value_text(recipes[0], "objective.kind"), data]
        title = f"{_plain(metric)} ({'higher' if metric in HIGHER else 'lower'} is better)"
        tables += [(": ".join([title, *([" of ".join(task)] if all(task) else [])]), Table(["model", _plain(metric)], texts, bars))]
    return [(title, table) for title, table in tables if len(table.rows) > 1]


def metrics_table(run: RunFacts) -> Table:
    """Return the table of the validation metrics of a run's best checkpoint, of the model before training, and of the baselines."""
    best = run.best_metrics
    columns = {"best checkpoint": best, "before training": run.recorded.before} | {_plain(name): one for name, one in run.baselines.items()}
    known = {name: [number_of(values, name) for values in columns.values()] for name in shown_metrics(best)}
    rows = [[_plain(name), *("" if value is None else f"{value:.4g}" for value in row)] for name, row in known.items()]
    return Table(["metric", *columns], rows).without_empty_columns()


def best_entries(entries: Sequence[Entry]) -> list[Entry]:
    """Return the best run of each group of runs that were evaluated in the same way."""
    return [scored[0][1] for _, scored in _groups(entries)]


def _groups(entries: Sequence[Entry]) -> list[tuple[str, list[tuple[float, Entry]]]]:
    """Return (metric, [(score, run), ...]) for each group of runs that were evaluated in the same way: its best runs, best first."""
    groups: dict[tuple[str, str], list[tuple[float, Entry]]] = {}
    for entry in entries:
        if (best := entry.run.score) is not None and not entry.run.is_group:
            groups.setdefault((best[0], entry.evaluation_key), []).append((best[1], entry))
    ranked = {key: sorted(scored, key=lambda one: one[0], reverse=key[0] in HIGHER) for key, scored in groups.items()}
    return [(metric, scored[:_MOST_BARS]) for (metric, _), scored in ranked.items()]


def _references(run: RunFacts, metric: str) -> list[_Score]:
    """Return the scores of a run's baselines, and of its model before the first step."""
    known = [_Score(one[metric], _plain(name), "baseline", _BASELINE) for name, one in run.baselines.items() if metric in one]
    before, has_new_head = number_of(run.recorded.before, metric), (run.recorded.result or {}).get("new_head") is True
    name = f"before training{', new head' if has_new_head else ''}"
    return known if before is None else [*known, _Score(before, name, "untouched", _BEFORE)]


def _plain(name: str) -> str:
    return name.replace("_", " ")


def trained_table(entries: Sequence[Entry], full: bool) -> Table:
    """Return the table of the model, data and settings of each run."""
    return Table(["run", *_TRAINED], [[entry.label, *_trained(entry.run, full)] for entry in entries])


def _trained(run: RunFacts, full: bool) -> list[str]:
    recipe, sizes = run.recipe, run.recorded.data_sizes
    start, rank, held_out = recipe.get("model.from"), recipe.get("training.adapter.rank"), recipe.get("data.validation")
    source = "random weights" if start is None else truncated(str(start) if full else last_name(str(start)))
    train, validation = _data(recipe, "data.train", full), _data(recipe, "data.validation", full)
    names = ("optimizer.lr", "training.batch_size", "data.sequence_length", "training.epochs")
    rate, rows, length, epochs = (number_of(recipe, name) for name in names)
    steps, processor = run.recorded.planned_steps, text_of(run.recorded.processor, "name")
    return [
        *_model(run),
        "" if not recipe else source if rank is None else f"{source}, with a LoRA adapter of rank {rank}",
        _with_size(train, mapping_of(sizes, "train")),
        _with_size(f"{_percent(held_out)} of the rows" if isinstance(held_out, float) else validation, mapping_of(sizes, "validation")),
        value_text(recipe, "objective.kind"),
        value_text(recipe, "optimizer.kind"),
        "" if rate is None else f"{rate:g}{', found by trial' if run.recorded.rate_trial else ''}",
        _schedule(recipe),
        _joined("" if rows is None else format_number_of(int(rows), "row"), length and f"of {length:,.0f} tokens at most"),
        _joined("" if steps is None else format_number_of(steps, "step"), epochs and format_epochs(epochs)),
        _joined(run.recorded.device, processor, (text_of(run.recorded.fields, "precision") or "").removeprefix("torch.")),
    ]


def _model(run: RunFacts) -> tuple[str, str]:
    """Return the family and size of the model, and its layers, as texts such as `bert, 22.7M parameters` and `6 encoder, of width 384`."""
    recipe, checkpoint = run.recipe, run.checkpoint
    kind, count = (text_of(checkpoint.config, "model_type"), checkpoint.parameters) if checkpoint else (None, None)
    size = count and f"{format_count(count)} parameters{' in the adapter' if checkpoint and checkpoint.is_adapter else ''}"
    counts = {stack: number_of(recipe, f"model.{stack}_layers") for stack in ("encoder", "decoder")}
    layers = [f"{count:,.0f} {stack}" for stack, count in counts.items() if count]
    width = f"of width {value_text(recipe, 'model.dim')}" if layers and "model.dim" in recipe else ""
    return _joined(kind or value_text(recipe, "model.preset"), size), _joined(*layers, width)


def _with_size(name: str, size: Mapping[str, Any]) -> str:
    """Return the name of data with the numbers of their rows, documents and tokens, if known: `train.csv: 720 rows, 18k tokens`."""
    counts = [format_number_of(int(count), noun[:-1]) for noun in ("rows", "documents") if (count := number_of(size, noun)) is not None]
    tokens = number_of(size, "tokens")
    return ": ".join(filter(None, (name, _joined(*counts, tokens and f"{format_count(tokens)} tokens"))))


def _joined(*parts: str | float | None) -> str:
    return ", ".join(str(part) for part in parts if part)


def _schedule(recipe: Mapping[str, Any]) -> str:
    """Return the learning rate schedule as text: its kind, warm-up and final rate, such as `linear, 10% warm-up, to 10%`."""
    ratio, steps, final = (number_of(recipe, f"schedule.{name}") for name in ("warmup_ratio", "warmup_steps", "final_ratio"))
    warmup = f"{steps:,.0f} steps of warm-up" if steps else ratio and f"{_percent(ratio)} warm-up"
    return _joined(value_text(recipe, "schedule.kind"), warmup, final and f"to {_percent(final)}")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g}%"


def _data(recipe: Mapping[str, Any], name: str, full: bool) -> str:
    """Return the names of the data sources in the field `name` of a recipe; if `full`, the path of each source that has one."""
    return truncated(", ".join(source.path or source.name for source in data_sources(recipe.get(name), full=full)))
