"""The energy and compute part of the EU's Model Documentation Form for general-purpose AI models, as text, with a list of its gaps.

Sources: Annex XI of Regulation (EU) 2024/1689, section 1, point 2 (d) and (e); Code of Practice for general-purpose AI, chapter
Transparency (10 July 2025); for the methods, Commission Guidelines C(2025) 5045, Annex A.2 (estimates may be off by 30 %). No delegated act
on the measurement has been adopted.

The names of the fields are from unofficial copies of the form, in which three fields are just called "Measurement methodology"; users have
to compare them with the official form before submission. A field with a recipient in brackets is for this recipient only, since the AI
Office requires more precise values than national authorities do.
"""

import math
from collections.abc import Iterator

from tfkit.reporting.formats.model_facts import BOUNDARY, ModelFacts, describe_model
from tfkit.reporting.run_facts import RunFacts, number_of
from tfkit.reporting.visible_text import visible

_SIZES = (
    *((1e6, "below 1M"), (500e6, "1M-500M"), (5e9, "500M-5B"), (15e9, "5B-15B"), (50e9, "15B-50B"), (100e9, "50B-100B")),
    *((500e9, "100B-500B"), (1e12, "500B-1T"), (math.inf, ">1T")),
)
_MONTHS = ((30.4, "less than 1 month"), (91.3, "1-3 months"), (182.6, "3-6 months"), (math.inf, "more than 6 months"))
_DAY = 86400.0
_MISSING = "NOT KNOWN"
_PROVIDER = "TO BE STATED BY THE PROVIDER"
_BENCHMARK_TOKENS = 100_000  # the computation of an inference is stated for this number of tokens, read or written


def eu_gpai(run: RunFacts, *, full: bool) -> str:
    """Return the part of the form that can be filled in from a run. Raises UsageError for a run that is not the training of one model."""
    model = describe_model(run, full=full)
    lines = ["Model Documentation Form for general-purpose AI models: model, compute and energy", ""]
    for title, fields in (
        ("General information", _general(model)),
        ("Model properties", _properties(model)),
        ("Data", _data(model)),
        ("Computational resources (during training)", _compute(model)),
        ("Energy consumption (during training and inference)", _energy(model)),
    ):
        lines += [title, *(f"  {name}: {visible(value) or _MISSING}" for name, value in fields), ""]
    gaps = [*_open_fields(model), *model.gaps()]
    return "\n".join([*lines, "Gaps", *(f"  - {visible(gap)}" for gap in gaps), ""])


def _general(model: ModelFacts) -> Iterator[tuple[str, str]]:
    hashes = [f"{name} SHA-256 {sha256}" for name, sha256 in sorted(model.weights.items())]
    hashed = [(parent, f", content SHA-256 {parent.sha256}" if parent.sha256 else "") for parent in model.parents]
    parents = [f"{parent.name} ({', '.join(parent.roles)}{sha256})" for parent, sha256 in hashed]
    yield "Model name", model.run.name
    yield "Model version", " ".join(part for part in (model.version, f"of run {model.run.run_id}" if model.run.run_id else "") if part)
    yield "Secure hash of the weights", "; ".join(hashes)
    yield "Date", (model.ended or "")[:10]
    yield "Model it modifies or is made from", "; ".join(parents) or "N/A, trained from random weights"
    for name, value in model.places.items():
        yield f"Place: {name}", value


def _properties(model: ModelFacts) -> Iterator[tuple[str, str]]:
    layers = f", {model.layers} layers" if model.layers is not None else ""
    count = model.parameters
    yield "Model architecture", f"Transformer ({model.architecture or 'of no named class'}{layers}), objective {model.objective}"
    yield "Total number of parameters", f"{_power(count)} ({count:,})" if count is not None else ""
    yield "Range of parameters", _bin(float(count), _SIZES) if count is not None else ""
    yield "Input and output modalities", "text"
    length = number_of(model.run.recipe, "model.context_length")
    yield "Maximum input size", f"{length:,} tokens" if length else ""
    settings = ", ".join(f"{name} {value}" for name, value in model.settings.items())
    yield "Training process", f"{model.training}; {settings}" if settings else model.training


def _data(model: ModelFacts) -> Iterator[tuple[str, str]]:
    yield "Type of data", "text"
    yield "Sources", "; ".join(source.path or source.name for source in model.data)
    yield "Tokens trained on, repetitions included", f"{model.tokens:,}" if model.tokens is not None else ""


def _compute(model: ModelFacts) -> Iterator[tuple[str, str]]:
    seconds = model.run.amounts.seconds
    by_device = model.run.measurement.device_seconds or {}
    hardware = "; ".join(f"{_power(device_seconds / _DAY, 1)} {name} days" for name, device_seconds in by_device.items())
    days = f"{_power(seconds / _DAY, 1)} days ({seconds:,.0f} s)" if seconds is not None else ""
    yield "Training time, wall-clock days (AI Office)", days
    yield "Training time, hardware days (AI Office)", hardware
    yield "Training time, range (national authorities)", _bin(seconds / _DAY, _MONTHS) if seconds is not None else ""
    yield "Amount of computation used for training (AI Office)", f"{_power(model.flops)} FLOP" if model.flops else ""
    order = f"10^{math.floor(math.log10(model.flops))} FLOP" if model.flops else ""
    yield "Amount of computation used for training (national authorities)", order
    method = (
        "In the absence of a delegated act under Article 53(5), counted by the architecture (Guidelines, Annex A.2.2): "
        f"{model.flops_basis}; all operations count alike, whatever their precision; evaluations, failed and repeated work are not included"
    )
    yield "Measurement methodology of the computation", method if model.flops else ""
    if model.flops and (bound := model.run.recorded.totals.hardware_flops_bound):
        peak = "the time of the steps at the device's peak (of a GPU by its data sheet, else measured)"
        count = f"the count by the architecture is {model.flops / bound:.2%} of it"
        yield "Computation according to the hardware, for comparison", f"at most {_power(bound)} FLOP, {peak}; {count}"


def _energy(model: ModelFacts) -> Iterator[tuple[str, str]]:
    amounts, least = model.run.amounts, "at least " if model.run.is_lower_bound else ""
    low, high = amounts.energy_kwh_low, amounts.energy_kwh_high
    spread = f", between {_power(low / 1000)} and {_power(high / 1000)} MWh" if low is not None and high is not None else ""
    energy = f"{least}{_power(amounts.energy_kwh / 1000)} MWh{spread}" if amounts.energy_kwh is not None else ""
    yield "Amount of energy used for training", energy
    yield "Measurement methodology of the energy", _energy_method(model)
    yield "Emissions, beyond the form", _emissions(model)
    per_token = 2.0 * (model.parameters or 0)
    flops = f"{_power(per_token * _BENCHMARK_TOKENS)} FLOP for {_BENCHMARK_TOKENS:,} tokens, read or written"
    yield "Benchmarked amount of computation used for inference", flops if model.parameters is not None else ""
    if model.parameters is not None:
        rule = f"2 operations for each parameter and token ({_power(per_token)} FLOP per token), attention not counted"
        yield "Measurement methodology of the benchmark", rule


def _energy_method(model: ModelFacts) -> str:
    amounts, measured = model.run.amounts, model.run.measurement
    if amounts.energy_kwh is None:
        return ""
    parts = [
        f"measured with CodeCarbon {model.versions.get('codecarbon', '')}".strip(),
        model.measured,
        f"{measured.coverage:.1%} of the time measured, the rest at the same power" if measured.coverage is not None else "",
        f"PUE {measured.pue:g}, included" if measured.pue is not None else "no PUE stated",
        f"within: {BOUNDARY}",
        f"repeated work of {_power(amounts.rework_kwh / 1000)} MWh included" if amounts.rework_kwh else "",
    ]
    return "; ".join(part for part in parts if part)


def _emissions(model: ModelFacts) -> str:
    grams, intensity = model.run.amounts.emissions_g, model.intensity.g_per_kwh
    if grams is None:
        return ""
    inherited, sums = "", model.ancestry.sums
    if model.ancestry.ancestors:
        least = "at least " if sums.is_lower_bound else ""
        amount = "not known" if sums.emissions_g is None else f"{least}{_power(sums.emissions_g)} g CO2e"
        inherited = f"; of the models from which it was made: {amount}"
    return f"{_power(grams)} g CO2e at {intensity} g/kWh ({model.intensity.origin or 'source not recorded'}){inherited}"


def _open_fields(model: ModelFacts) -> Iterator[str]:
    """Yield the fields of the form that cannot be filled in from a run."""
    for field in (
        "legal name of the provider",
        "date of the placing on the market, in the Union and elsewhere",
        "rationale of the design, and what was optimized for",
        "data: how it was obtained and selected, rights, measures against unsuitable content and bias",
        "licences, distribution channels, acceptable use",
    ):
        yield f"{field}: {_PROVIDER}"
    if not model.run.recorded.totals.hardware_flops_bound:
        yield "computation by the hardware (units x seconds x peak x utilization, Annex A.2.1): the peak of the device is not known"
    if model.tokens is None:
        yield "tokens: not recorded"


def _power(number: float, digits: int = 2) -> str:
    """Format a number as in the form, such as 7.3*10^10, with `digits` significant digits; 0 is formatted as 0."""
    if not number:
        return "0"
    mantissa, exponent = f"{number:.{digits - 1}e}".split("e")
    return f"{mantissa}*10^{int(exponent)}"


def _bin(value: float, bins: tuple[tuple[float, str], ...]) -> str:
    return next(name for limit, name in bins if value < limit)
