"""The facts that a person asks of runs first: what was trained on what, how good it is, and what it is to be compared with."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tfkit.recipe.schema.best_metric import HIGHER
from tfkit.reporting.amount_texts import score
from tfkit.reporting.page_tables import Table, value_text
from tfkit.reporting.run_facts import RunFacts, mapping_of, number_of, text_of
from tfkit.reporting.run_set import Entry, RunSet
from tfkit.reporting.visible_text import shareable
from tfkit.run.card_facts import last_name
from tfkit.units import format_count, format_epochs, format_number_of, shown_metrics

_MOST_BARS = 20  # runs in the picture of their scores
_BEST, _OTHER, _BASELINE, _BEFORE = 0, 6, 1, 7  # colours
_TRAINED = [
    *("model", "layers", "started from", "trained on", "held out", "objective"),
    *("optimizer", "learning rate", "schedule", "batch", "length", "computed on"),
]


def answer(runs: RunSet) -> tuple[str, list[str]]:
    """Return the best score, and what it is to be compared with, or why there is none; empty if the runs have no score in common."""
    several = len(runs.entries) > 1
    entry = runs.best if several and len(runs.trained) != 1 else [*runs.trained, *runs.entries][0]
    if entry is None:
        return "", []
    run, best = entry.run, entry.run.listed.best
    words = [run.listed.problem or ""] if run.status != "finished" else []
    if best is None:
        return score(run.listed), words
    metric, value = best["metric"], best["value"]
    sign = 1.0 if is_high(metric) else -1.0
    known = {name: scores[metric] for name, scores in run.baselines.items() if metric in scores}
    if known:
        name = max(known, key=lambda name: sign * known[name])
        words.append(f"{'beats' if sign * value > sign * known[name] else 'does not beat'} {_plain(name)}: {known[name]:.4g}")
    words += [f"{model}: {before:.4g}" for model, before in _before(run, metric)]
    words.append(f"step {best['step']:,}" + (f" of {run.listed.planned_steps:,}" if type(run.listed.planned_steps) is int else ""))
    return f"{_plain(metric)} {value:.4g}", [*([entry.label] if several else []), *words]


def score_tables(entries: Sequence[Entry], full: bool) -> list[tuple[str, Table]]:
    """Return the scores of the runs, their baselines and the models before training, the best first: a table for runs evaluated alike."""
    tables = []
    for metric, scored in _groups(entries):
        sign = 1.0 if is_high(metric) else -1.0
        kinds = ["best run" if len(scored) > 1 else "this run", *["run"] * (len(scored) - 1)]
        rows = [
            (value, entry.label, kind, _BEST if number == 0 else _OTHER)
            for number, (kind, (value, entry)) in enumerate(zip(kinds, scored, strict=True))
        ]
        for _, entry in scored:
            known = {name: scores[metric] for name, scores in entry.run.baselines.items() if metric in scores}
            rows += [(value, _plain(name), "baseline", _BASELINE) for name, value in known.items()]
            rows += [(value, words, "untouched", _BEFORE) for words, value in _before(entry.run, metric)]
        rows = sorted(dict.fromkeys(rows), key=lambda row: -sign * row[0])[: 2 * _MOST_BARS]
        most = max((abs(row[0]) for row in rows), default=0.0) or 1.0
        table = Table(["model", _plain(metric)], [[f"{label} ({kind})", f"{value:.4g}"] for value, label, kind, _ in rows])
        bars = [(abs(value) / most, colour) for value, *_, colour in rows]
        data = _data_text(scored[0][1].run.recipe.get("data.train"))
        of_task = " of ".join(filter(None, (value_text(scored[0][1].run.recipe, "objective.kind"), shareable(data, full=full))))
        title = f"{_plain(metric)} ({'higher' if is_high(metric) else 'lower'} is better){of_task and f': {of_task}'}"
        tables += [(title, replace(table, bars=bars))] if len(rows) > 1 else []
    return tables


def metrics_table(run: RunFacts) -> Table:
    """Return all validation metrics of the best checkpoint of one run, beside the model before training and the baselines."""
    step = (run.listed.best or {}).get("step")
    best = next((values for at, values in reversed(run.metrics.evaluations) if at == step), {})
    columns = {
        "best checkpoint": best,
        "before training": run.recorded.before,
        **{_plain(name): one for name, one in run.baselines.items()},
    }
    texts = [[_plain(name), *(_text_of_score(values, name) for values in columns.values())] for name in shown_metrics(best)]
    return Table(["metric", *columns], texts).without_empty_columns()


def _text_of_score(values: Mapping[str, Any], name: str) -> str:
    value = number_of(values, name)
    return "" if value is None else f"{value:.4g}"


def best_entries(entries: Sequence[Entry]) -> list[Entry]:
    """Return the best run of each group of runs that were evaluated alike."""
    return [scored[0][1] for _, scored in _groups(entries)]


def _groups(entries: Sequence[Entry]) -> list[tuple[str, list[tuple[float, Entry]]]]:
    """Return the metric of each group of runs that were evaluated alike, and its best runs with their scores."""
    groups: dict[tuple[str, str], list[tuple[float, Entry]]] = {}
    for entry in entries:
        best = entry.run.listed.best
        if best is not None and (value := number_of(best, "value")) is not None and not entry.run.is_group:
            groups.setdefault((best["metric"], entry.evaluation_key), []).append((value, entry))
    return [
        (metric, sorted(scored, key=lambda one: one[0], reverse=is_high(metric))[:_MOST_BARS]) for (metric, _), scored in groups.items()
    ]


def _before(run: RunFacts, metric: str) -> list[tuple[str, float]]:
    """Return the score before the first step, with words for the model; none if it is not known."""
    value = number_of(run.recorded.before, metric)
    head = ", new head" if (run.recorded.result or {}).get("new_head") is True else ""
    return [] if value is None else [(f"before training{head}", value)]


def is_high(metric: str) -> bool:
    """Whether a higher value of the metric, perhaps of one set of several, is better."""
    return metric.rpartition(".")[2] in HIGHER


def _plain(name: str) -> str:
    return name.replace("_", " ")


def trained_table(entries: Sequence[Entry], full: bool) -> Table:
    """Return the table of what each run trained on what, and how."""
    return Table(["run", *_TRAINED], [[entry.label, *_trained(entry.run, full)] for entry in entries])


def _trained(run: RunFacts, full: bool) -> list[str]:
    recipe, sizes = run.recipe, run.recorded.data_sizes
    start, rank, held_out = recipe.get("model.from"), recipe.get("training.adapter.rank"), recipe.get("data.validation")
    source = "random weights" if start is None else str(start) if full else last_name(str(start))
    held_out = f"{_percent(held_out)} of the rows" if isinstance(held_out, float) else shareable(_data_text(held_out), full=full)
    rate, trial = number_of(recipe, "optimizer.lr"), ", found by trial" if run.recorded.rate_trial else ""
    facts = [
        *_model(run),
        "" if not recipe else source if rank is None else f"{source}, with a LoRA adapter of rank {rank}",
        _with_size(shareable(_data_text(recipe.get("data.train")), full=full), mapping_of(sizes, "train")),
        _with_size(held_out, mapping_of(sizes, "validation")),
        value_text(recipe, "objective.kind"),
        value_text(recipe, "optimizer.kind"),
        "" if rate is None else f"{rate:g}{trial}",
        _schedule(recipe),
        ", ".join(_lengths(recipe)),
        ", ".join(_durations(run)),
    ]
    processor, precision = text_of(run.recorded.processor, "name"), text_of(run.recorded.fields, "precision")
    return [*facts, ", ".join(filter(None, (run.recorded.device, processor, (precision or "").removeprefix("torch."))))]


def _model(run: RunFacts) -> tuple[str, str]:
    """Return the type and size of the model, and its layers: `bert, 22.7M parameters` and `6 encoder, of width 384`."""
    recipe, checkpoint = run.recipe, run.checkpoint
    kind = text_of(checkpoint.config, "model_type") if checkpoint else None
    count = checkpoint.parameters if checkpoint else None
    noun = "parameters in the adapter" if checkpoint and checkpoint.is_adapter else "parameters"
    size = "" if count is None else f"{format_count(count)} {noun}"
    counts = {stack: number_of(recipe, f"model.{stack}_layers") for stack in ("encoder", "decoder")}
    layers = [f"{count:,.0f} {stack}" for stack, count in counts.items() if count]
    width = [f"of width {value_text(recipe, 'model.dim')}"] if layers and "model.dim" in recipe else []
    return ", ".join(filter(None, (kind or value_text(recipe, "model.preset"), size))), ", ".join([*layers, *width])


def _with_size(name: str, size: Mapping[str, Any]) -> str:
    """Return a name with the rows or documents and the tokens of its data: `train.csv: 720 rows, 18k tokens`."""
    counts = [format_number_of(int(count), noun[:-1]) for noun in ("rows", "documents") if (count := number_of(size, noun)) is not None]
    tokens = number_of(size, "tokens")
    counts += [] if tokens is None else [f"{format_count(tokens)} tokens"]
    return ": ".join(filter(None, (name, ", ".join(counts) if any(size.values()) else "")))


def _schedule(recipe: Mapping[str, Any]) -> str:
    """Return the kind of the schedule with its warm-up and its end: `linear, 10% warm-up`."""
    ratio, steps, final = (number_of(recipe, f"schedule.{name}") for name in ("warmup_ratio", "warmup_steps", "final_ratio"))
    warmup = f"{steps:,.0f} steps of warm-up" if steps else f"{_percent(ratio)} warm-up" if ratio else ""
    end = f"to {_percent(final)}" if final else ""
    return ", ".join(filter(None, (value_text(recipe, "schedule.kind"), warmup, end)))


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g}%"


def _lengths(recipe: Mapping[str, Any]) -> Iterator[str]:
    """Yield the size of a batch: its rows, and their length."""
    rows, length = number_of(recipe, "training.batch_size"), number_of(recipe, "data.sequence_length")
    if rows is not None:
        yield format_number_of(int(rows), "row")
    if length is not None:
        yield f"of {length:,.0f} tokens at most"


def _durations(run: RunFacts) -> Iterator[str]:
    """Yield the length of the training: its steps, and its epochs if these decided it."""
    if run.recorded.planned_steps is not None:
        yield format_number_of(run.recorded.planned_steps, "step")
    if (epochs := number_of(run.recipe, "training.epochs")) is not None:
        yield format_epochs(epochs)


def _task(source: Mapping[str, Any]) -> str:
    """Return the task that the standard library serves as, in brackets; empty if it is plain text."""
    return "" if source.get("stdlib") is True else f" ({source.get('stdlib')})"


def _data_text(sources: object) -> str:
    """Return the files and data sets of a recipe's data.train, in a form that `shareable` shortens."""
    named = [one for one in sources if isinstance(one, Mapping)] if isinstance(sources, list) else []
    return ", ".join(
        f"./{one['path']}" if one.get("path") else str(one.get("hub") or f"Python's standard library{_task(one)}") for one in named
    )
