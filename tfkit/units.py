"""Format numbers for people, with units that fit: a short run emits milligrams of CO2, a long run tonnes."""

from collections.abc import Mapping
from typing import Any, TypeVar

Value = TypeVar("Value")


def format_fields(fields: Mapping[str, Any]) -> list[str]:
    """Format the fields of a training step: {"step": 120, "steps": 1000, "lr": 1e-3} gives `step 120/1000`, `lr 1.0e-3`.

    The fields step (with steps), lr, tokens_per_second, eta_seconds, energy_wh, energy_kwh and emissions_g have formats of their own. Any
    other field is formatted as its name and its value, a float with four significant digits. Fields whose value is None are omitted.
    """
    shown = {name: value for name, value in fields.items() if value is not None and not (name == "steps" and "step" in fields)}
    return [_format_field(name, value, fields) for name, value in shown.items()]


def _format_field(name: str, value: Any, fields: Mapping[str, Any]) -> str:
    match name:
        case "step":
            return f"step {value}" if fields.get("steps") is None else f"step {value}/{fields['steps']}"
        case "lr":
            return f"lr {value:.1e}".replace("e-0", "e-").replace("e+0", "e+")
        case "tokens_per_second":
            return f"{format_count(value)} tok/s"
        case "eta_seconds":
            return f"ETA {format_seconds(value)}"
        case "energy_wh":
            return format_energy(value)
        case "energy_kwh":
            return format_energy(1000 * value)
        case "emissions_g":
            return format_mass(value)
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"


def format_count(count: float) -> str:
    """Format a count as 999, 12.3k, 1.2M, 3.4B, 5.6T."""
    return _scaled(count, {"T": 1e12, "B": 1e9, "M": 1e6, "k": 1e3, "": 1})


def format_number_of(count: int, noun: str) -> str:
    """Format a count with a noun, as 1 row or 1,200 rows."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_epochs(epochs: float) -> str:
    """Format a number of epochs, which may be a fraction, as 1 epoch, 0.25 epochs, 3 epochs."""
    text = f"{epochs:.3g}"
    return f"{text} epoch{'' if text == '1' else 's'}"


def format_bytes(count: float) -> str:
    """Format bytes as 999 B, 12.3 kB, 1.2 MB, 3.4 GB, 5.6 TB."""
    return _scaled(count, {" TB": 1e12, " GB": 1e9, " MB": 1e6, " kB": 1e3, " B": 1})


def format_seconds(seconds: float) -> str:
    """Format seconds as 0:07, 3:10, 2:03:04, 5d 02h; as ? if they are negative, not finite, or 1e10 or more."""
    if not 0 <= seconds < 1e10:
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}d {hours % 24:02d}h"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def format_mass(grams: float) -> str:
    """Format grams as 12 ug, 195 mg, 1.2 g, 3.4 kg, 5.6 t."""
    return _scaled(grams, {" t": 1e6, " kg": 1e3, " g": 1, " mg": 1e-3, " ug": 1e-6}) if grams else "0 g"


def format_energy(watt_hours: float) -> str:
    """Format watt-hours as 410 mWh, 1.2 Wh, 3.4 kWh, 3.1 MWh."""
    return _scaled(watt_hours, {" MWh": 1e6, " kWh": 1e3, " Wh": 1, " mWh": 1e-3}) if watt_hours else "0 Wh"


def format_range(low: float, high: float) -> str:
    """Format two energies in watt-hours as a range, as 1.1 to 2.4 Wh or, if their units differ, 380 mWh to 1.1 Wh."""
    (least, _, unit), most = format_energy(low).partition(" "), format_energy(high)
    return f"{least} to {most}" if most.endswith(f" {unit}") else f"{least} {unit} to {most}"


def _scaled(value: float, units: Mapping[str, float]) -> str:
    """Format a value in the largest unit that gives at least 0.9995, else the smallest; below 100 with up to one decimal. Not finite: ?."""
    if not abs(value) < float("inf"):
        return "?"
    unit, size = next((item for item in units.items() if abs(value) >= 0.9995 * item[1]), list(units.items())[-1])
    scaled = value / size
    text = f"{scaled:.1f}" if abs(scaled) < 99.95 else f"{scaled:.0f}"
    return text.removesuffix(".0") + unit


# Baselines that lack the preferred metric are compared by the first of these metrics that at least one baseline has.
_BASELINE_METRICS = ("f1", "accuracy", "f1_micro", "rmse", "chrf", "rougeL", "exact_match", "bleu")
_COUNTS = ("target_tokens", "majority")  # metrics shown elsewhere: the number of tokens, and the fraction of the commonest class


def shown_metrics(metrics: Mapping[str, Value]) -> dict[str, Value]:
    """Return the metrics to show: not those in _COUNTS, nor an f1_micro that equals the accuracy, as it does if each row has one class."""

    def same(name: str) -> bool:
        of_set, _, metric = name.rpartition(".")
        return metric == "f1_micro" and metrics[name] == metrics.get(f"{of_set}.accuracy" if of_set else "accuracy")

    return {name: value for name, value in metrics.items() if name.rpartition(".")[2] not in _COUNTS and not same(name)}


def format_metrics(metrics: Mapping[str, float | None]) -> str:
    """Format the metrics of a model as a line: `loss 0.4817  accuracy 0.8109`. The value None is shown as `not finite`."""
    shown = shown_metrics(metrics).items()
    return "  ".join(f"{name} {'not finite' if value is None else format(value, '.4g')}" for name, value in shown)


def baseline_metric(baselines: Mapping[str, Mapping[str, float]], preferred: str | None = None) -> str | None:
    """Return the metric by which baselines are compared: the first of `preferred` and _BASELINE_METRICS that any baseline has, or None."""
    names = (preferred, *_BASELINE_METRICS)
    return next((name for name in names if name and any(name in scores for scores in baselines.values())), None)


def format_baselines(baselines: Mapping[str, Mapping[str, float]], preferred: str | None = None) -> str:
    """Format the scores of baselines by one metric: `accuracy 0.5204 most frequent class, 0.7812 naive bayes`; empty without baselines."""
    metric = baseline_metric(baselines, preferred)
    if metric is None:
        return ""
    return f"{metric} " + ", ".join(
        f"{scores[metric]:.4g} {name.replace('_', ' ')}" for name, scores in baselines.items() if metric in scores
    )
