"""Show the results of commands as JSON or as text: facts and tables in columns, and the results of trainings and sweeps."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from tfkit import console
from tfkit.carbon.footprint import describe_sources
from tfkit.errors import Stopped, TfkitError
from tfkit.recipe.schema.objective_sections import HIGHER, best_value
from tfkit.run import strict_json
from tfkit.units import (
    format_baselines,
    format_count,
    format_energy,
    format_mass,
    format_metrics,
    format_number_of,
    format_range,
    format_seconds,
)

_HARDLY = 0.001  # a smaller relative change of a score is shown as "hardly any change"
_IN_WORDS = {  # descriptions of baselines, by name
    "mean": "always answering the mean of the training rows",
    "most_frequent_tag_of_word": "each word's most frequent tag",
    "no_answer": "never answering",
    "sentence_like_the_question": "the sentence with the most words of the question",
    "source": "the source as it is",
}


def align_columns(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a table, with two spaces between columns. The first `left` columns are left-aligned, the others right-aligned."""
    rows = [[console.escaped_line(cell) for cell in row] for row in rows]
    widths = [max(map(console.columns_of, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(_pad(cell, widths[index], index < left) for index, cell in enumerate(row)).rstrip() for row in rows)


def align_facts(facts: Mapping[str, str]) -> str:
    """Return facts as lines with two columns, name and value. Facts whose value is empty are omitted."""
    width = max(len(name) for name, value in facts.items() if value)
    return "\n".join(f"{name:<{width}}  {console.escaped_line(value)}" for name, value in facts.items() if value)


def format_amounts(seconds: float | None, energy_kwh: float | None, emissions_g: float | None) -> tuple[str, str, str]:
    """Return a time, an energy and emissions as texts for the cells of a table. The text is empty for None."""
    return (
        "" if seconds is None else format_seconds(seconds),
        "" if energy_kwh is None else format_energy(1000 * energy_kwh),
        "" if emissions_g is None else format_mass(emissions_g),
    )


def _pad(cell: str, width: int, left: bool) -> str:
    space = " " * (width - console.columns_of(cell))
    return cell + space if left else space + cell


def show(
    document: dict[str, Any], text: Callable[[dict[str, Any]], str], error: TfkitError | Stopped | None = None, *, as_json: bool
) -> None:
    """Show a result as text, or as JSON with the `error` that ends the command. A closed stdout does not change the exit code."""
    with suppress(console.ReaderGone):
        if as_json:
            console.json(strict_json.finite({"schema_version": 1, **document}), error)
        else:
            console.result(text(document))


def training_text(result: dict[str, Any]) -> str:
    """Return the result of a training as text; with stages, the result of each stage and the totals; of a sweep, a table of its trials."""
    if "trials" in result:
        return _sweep(result)
    if "stages" in result:
        return "\n\n".join([*(f"{name}\n{_lines(stage)}" for name, stage in result["stages"].items()), _totals(result)])
    return _lines(result)


def _totals(result: dict[str, Any], name: str = "all stages") -> str:
    used = f", {footprint}" if (footprint := _footprint(result)) else ""
    ancestors = f"; {lineage}" if (lineage := _lineage(result)) else ""
    return f"{name}: {format_count(result['tokens'] or 0)} tokens in {format_seconds(result['seconds'] or 0.0)}{used}{ancestors}"


def _footprint(result: dict[str, Any]) -> str:
    """Return the energy and the emissions as text; empty if they were not measured."""
    energy, mass = result["energy_kwh"], result["emissions_g"]
    at_least = "at least " if result.get("carbon_status") == "degraded" else ""  # degraded: a part of the run was not measured
    return f"{at_least}{format_energy(1000 * energy)}, {format_mass(mass)} CO2e" if energy and mass is not None else ""


def _sweep(result: dict[str, Any]) -> str:
    keys = list(result["trials"][0]["values"]) if result["trials"] else []
    rows = [("trial", *keys, "status", result["metric"] or "score", "time", "energy", "CO2e")]
    for trial in result["trials"]:
        score = "" if trial["score"] is None else f"{trial['score']:.4g}"
        used = format_amounts(trial["seconds"], trial["energy_kwh"], trial["emissions_g"])
        rows.append((trial["trial"], *(str(trial["values"][key]) for key in keys), trial["status"], score, *used))
    best, factor = result["best"], result["selection_factor"]
    lines = [align_columns(rows, 1 + len(keys) + 1), ""]
    if best is not None:
        chosen = ", ".join(f"{key}={value}" for key, value in best["values"].items())
        lines.append(f"best: {best['trial']}, {chosen}: {result['metric']} {best['score']:.4g}; {best['checkpoint']}")
    count = f"{len(result['trials'])} of {result['planned_trials']} trials"
    times = f", {factor:.3g} times those of the best one" if factor else ""
    return "\n".join([*lines, _totals(result, count) + times])


def _lineage(result: dict[str, Any]) -> str:
    """Return as text a run's emissions, alone and with those of its ancestors (models from which it was made); empty without ancestors."""
    own, inherited = result.get("emissions_g"), result.get("inherited_g")
    if inherited is None:
        is_unknown = result.get("inherited_is_lower_bound")
        return f"this run {format_mass(own)}; the emissions of its ancestors are not known" if is_unknown and own is not None else ""
    at_least = "at least " if result["inherited_is_lower_bound"] or result.get("carbon_status") != "ok" else ""
    alone = "not measured" if own is None else format_mass(own)
    return f"this run {alone}; with its ancestors {at_least}{format_mass((own or 0.0) + inherited)}"


def _lines(result: dict[str, Any]) -> str:
    loss, evaluation, used = result["loss"], result["evaluation"], _footprint(result)
    best = result.get("best")  # None: nothing was scored, or an older version trained the run
    steps, tokens = format_number_of(result["steps"], "step"), format_count(result["tokens"])
    # A result of version 0.1.0 has no `train_seconds`; there, `seconds` is the time of the training loop alone.
    seconds = format_seconds(result.get("train_seconds") or result["seconds"])
    place = f" ({result['place']})" if result.get("place") else ""  # where the electricity is from; older versions did not record it
    length = result.get("sequence_length")  # the scores of a language model depend on the length of the pieces into which texts are cut
    pieces = f"  in pieces of at most {length:,} tokens" if length and "target_tokens" in evaluation else ""
    earlier = best["step"] if best and best["step"] != result["steps"] else None
    before = format_metrics(result.get("before") or {})
    rows = {
        "checkpoint": result["checkpoint"],
        "best": f"step {earlier:,}, the checkpoint that --from RUN takes" if earlier is not None else "",
        "trained": f"{steps}, {tokens} tokens in {seconds}",
        "loss": f"{loss:.4f} on training rows" if loss is not None else "",
        "validation": format_metrics(evaluation) + pieces + (", at the last step" if evaluation and earlier is not None else ""),
        "before": before + (", with a head of random weights" if before and result.get("new_head") else ""),
        "energy": used and f"{used}{place}",
        "measured": _measured(result),
        "lineage": _lineage(result),
    }
    # The most important rows of the table come last.
    if trial := result.get("rate_trial"):
        rows["rate"] = f"{trial['lr']:g}, of {', '.join(sorted(trial['losses'], key=float))}, which were tried"
    rows["baselines"] = format_baselines(result.get("baselines") or {}, best["metric"] if best else None)
    rows["result"] = "; ".join(part for part in (beside_baseline(result), _since_before(result)) if part)
    return align_facts(rows)


def beside_baseline(result: dict[str, Any]) -> str:
    """Return a sentence that compares a score (of a training, the best checkpoint's) with the best baseline's; empty without baselines."""
    best = result.get("best_baseline")
    if not best:
        return ""
    name = best["name"].replace("_", " ")
    other = _IN_WORDS.get(best["name"], name)
    if name.startswith("most frequent") and other == name:
        other = f"always answering the {name}"
    score, value, sign = best["score"], best["value"], 1 if best["metric"] in HIGHER else -1
    if not result["beats_baseline"] and score is not None and sign * score > sign * value:
        return f"{best['metric']} {_number(score)} of one class for all rows beats nothing; {other}: {_number(value)}"
    is_perfect = score == value == best_value(best["metric"])
    verb = "beats" if result["beats_baseline"] else "equals" if is_perfect else "does NOT beat"
    return f"{best['metric']} {_number(score)} {verb} {other}: {_number(value)}"


def _since_before(result: dict[str, Any]) -> str:
    """Compare the best checkpoint to the starting model, as text; empty if that has no score, or a random head and there are baselines."""
    gain, best, shown = result.get("improvement"), result.get("best"), result.get("best_baseline")
    if gain is None or not best:
        return ""
    score = "" if shown and shown["metric"] == best["metric"] else f"{best['metric']} {_number(best['value'])}, "
    if result.get("new_head"):
        return "" if shown else f"{score}with a head that was random before the first step"
    change = f"better by {gain:.4g}" if gain > 0 else f"WORSE by {-gain:.4g}" if gain < 0 else "no better"
    hardly = ", which is hardly any change" if 0 < abs(gain) < _HARDLY * abs(best["value"]) else ""
    return f"{score}{change} than before the first step{hardly}"


def _measured(result: dict[str, Any]) -> str:
    """Return a text on how the energy was measured, and between which bounds it lies; empty without bounds."""
    energy, seconds = result["energy_kwh"], result["seconds"]
    low, high = result.get("energy_kwh_low"), result.get("energy_kwh_high")
    if not energy or not seconds or low is None or high is None:
        return ""
    sources = describe_sources(result.get("provenance") or {})
    idle = result.get("idle_kwh")
    apart = f"; the idle machine would have taken {format_energy(1000 * idle)}" if idle else ""
    power = "in part" if result.get("carbon_status") == "degraded" else f"{energy * 3.6e6 / seconds:.3g} W"
    return f"{power} ({sources}), {format_range(low * 1000, high * 1000)}{apart}"


def _number(value: float | None) -> str:
    """Format a score; None is a score that was not finite, which JSON cannot represent."""
    return "not finite" if value is None else f"{value:.4g}"
