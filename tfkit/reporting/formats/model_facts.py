"""The facts of a trained model that all formats need, from the facts of its run, and the gaps: required facts that are not known."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfkit.errors import UsageError
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.reporting.inherited import Ancestry, ancestry_of
from tfkit.reporting.run_facts import Amounts, RunFacts, mapping_of, number_of, text_of
from tfkit.run.card_facts import is_repository, source_name
from tfkit.run.lineage import Ancestor

_TRAININGS = {"pretrain": "pre-training", "finetune": "fine-tuning"}
BOUNDARY = (
    "CPU, GPU and RAM of the machine, in tokenizing, training, evaluation and checkpoints; without network and storage, and with cooling "
    "only as far as PUE has it"
)


@dataclass(frozen=True)
class DataSource:
    """A source of the training data: its name without folders, and whether it is a data set of the Hub."""

    name: str
    is_public: bool
    path: str = ""  # only with `full`


@dataclass(frozen=True)
class ModelFacts:
    """A trained model and its footprint. None, or empty: not known."""

    name: str
    run_id: str | None
    training: str  # pre-training or fine-tuning
    status: str
    version: str  # the name of the checkpoint: step-000500
    started: str | None  # ISO 8601 in UTC
    ended: str | None
    amounts: Amounts
    is_lower_bound: bool
    phases: Mapping[str, Mapping[str, float]]
    ancestry: Ancestry
    parameters: int | None = None
    adapter_parameters: int | None = None  # of an adapter, without its base model
    architecture: str = ""
    layers: int | None = None
    context_length: int | None = None
    objective: str = ""
    steps: int | None = None
    tokens: int | None = None
    flops: float | None = None
    flops_basis: str = ""
    flops_bound: float | None = None  # of the device at its peak, in the time of the steps
    devices: Mapping[str, float] = field(default_factory=dict)  # seconds of each kind
    provenance: Mapping[str, str] = field(default_factory=dict)  # cpu, gpu, ram: counter, model, constant, user
    coverage: float | None = None
    pue: float | None = None
    intensity: Mapping[str, Any] = field(default_factory=dict)
    country: str | None = None  # ISO 3166 alpha-3
    data: tuple[DataSource, ...] = ()
    weights: Mapping[str, str] = field(default_factory=dict)  # SHA-256 by file
    metrics: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)  # of the optimizer and the training
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)  # CodeCarbon's record of it
    utilization: Mapping[str, float] = field(default_factory=dict)  # percent, means of the last attempt
    device_hours: float | None = None  # of the GPUs, or of the machine if it trained on its processor
    embodied_g_per_device_hour: float | None = None  # the user's figure
    embodied_source: str | None = None
    places: Mapping[str, str] = field(default_factory=dict)  # only with `full`: hosts, command, folder

    @property
    def parents(self) -> list[Ancestor]:
        """The models that this one was made from."""
        return [self.ancestry.ancestors[index] for index in self.ancestry.parents]

    @property
    def measured(self) -> str:
        """The source of the energy of each component, as text."""
        return ", ".join(f"{part.upper()} by {source}" for part, source in self.provenance.items())

    def gaps(self) -> list[str]:
        """Return sentences on the facts that are unknown or incomplete."""
        return [*self._gaps_of_the_run(), *self._gaps_of_the_energy(), "embodied emissions: not included"]

    def _gaps_of_the_run(self) -> Iterator[str]:
        if self.status != "finished":
            yield f"the run is {self.status}: its numbers are those until now"
        if self.adapter_parameters is not None:
            yield f"parameters: the checkpoint is an adapter of {self.adapter_parameters:,} parameters, without those of its base model"
        elif self.parameters is None:
            yield "parameters: there is no complete checkpoint"
        if self.flops is None:
            yield "computation: neither counted nor computable without parameters and tokens"
        if self.ancestry.sums.is_lower_bound:
            yield "inherited emissions: a lower bound, because those of some ancestors are unknown"

    def _gaps_of_the_energy(self) -> Iterator[str]:
        if self.amounts.energy_kwh is None:
            yield "energy and emissions: not measured"
            return
        if self.is_lower_bound:
            yield "energy and emissions: a lower bound, because a part of the run was not measured"
        if self.country is None and self.intensity.get("kind") != "user":
            yield "place: unknown, so the world's average intensity is used"
        if self.coverage is not None and self.coverage < 0.99:
            yield f"measured time: {self.coverage:.1%}; the rest is estimated"
        if self.amounts.energy_kwh_low is None:
            yield "range of the energy: not recorded"
        yield "water, network and storage: not included"


def describe_model(run: RunFacts, *, full: bool) -> ModelFacts:
    """Return the facts of the model that a run trained. Raises UsageError for a run that is not the training of one model."""
    training = _TRAININGS.get(run.kind or "")
    if training is None:
        kind = f"of kind {run.kind}" if run.kind else "not readable"
        raise UsageError(f"{run.path}: this format describes a trained model, and this run is {kind}; name the folder of one training")
    totals, checkpoint, attempts = run.totals, run.checkpoint, run.recorded_attempts
    flops, basis = _flops(run)
    provenance = {part: str(source) for part, source in mapping_of(run.measurement, "provenance").items() if source}
    country = str(run.attempts[-1].place.get("country_iso_code") or "") if run.attempts else ""
    return ModelFacts(
        name=run.name,
        run_id=run.run_id,
        training=training,
        status=run.status,
        version=checkpoint.path.name if checkpoint else "",
        started=text_of(attempts[0], "started_utc") if attempts else None,
        ended=text_of(attempts[-1], "ended_utc") if attempts else None,
        amounts=run.amounts,
        is_lower_bound=run.is_lower_bound,
        phases=run.phases,
        ancestry=ancestry_of(run),
        parameters=checkpoint.parameters if checkpoint and not checkpoint.is_adapter else None,
        adapter_parameters=checkpoint.parameters if checkpoint and checkpoint.is_adapter else None,
        architecture=_architecture(run),
        layers=_layers(run),
        context_length=_whole(run.recipe.get("model.context_length")),
        objective=str(run.recipe.get("objective.kind") or ""),
        steps=run.listed.steps,
        tokens=_whole(totals.get("tokens")),
        flops=flops,
        flops_basis=basis,
        flops_bound=number_of(totals, "hardware_flops_bound"),
        devices=_devices(run),
        provenance=provenance,
        coverage=number_of(run.measurement, "coverage"),
        pue=number_of(run.measurement, "pue"),
        intensity=mapping_of(run.measurement, "intensity"),
        country=country if country not in ("", "WLD") else None,
        data=tuple(_sources(run, full)),
        weights=_weights(run),
        metrics={name: value for name, value in run.listed.metrics.items() if value is not None and name != "target_tokens"},
        settings=_settings(run),
        versions={str(name): str(version) for name, version in mapping_of(run.receipt, "versions").items()},
        machine=run.attempts[-1].machine.get("record", {}) if run.attempts else {},
        utilization=_utilization(run),
        device_hours=_device_hours(run),
        embodied_g_per_device_hour=number_of(run.recipe, "carbon.embodied_g_per_device_hour"),
        embodied_source=text_of(run.recipe, "carbon.embodied_source"),
        places=_places(run) if full else {},
    )


def _flops(run: RunFacts) -> tuple[float | None, str]:
    """Return the operations of the training and the method of counting: those in run.json, or else the Commission's 6 P D."""
    counted = number_of(run.totals, "train_flops")
    if counted:
        return counted, "the matrix products of each step, forward and backward, by the architecture"
    parameters = run.checkpoint.parameters if run.checkpoint and not run.checkpoint.is_adapter else None
    tokens = _whole(run.totals.get("tokens"))
    if parameters is None or tokens is None:
        return None, ""
    return 6.0 * parameters * tokens, "6 operations for each parameter and token (C ~ 6 P D)"


def _architecture(run: RunFacts) -> str:
    names = run.checkpoint.config.get("architectures") if run.checkpoint else None
    return str(names[0]) if isinstance(names, list) and names else ""


def _layers(run: RunFacts) -> int | None:
    counts = [_whole(run.recipe.get(f"model.{stack}_layers")) for stack in ("encoder", "decoder")]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _devices(run: RunFacts) -> dict[str, float]:
    recorded = mapping_of(run.measurement, "device_seconds")
    return {str(name): float(seconds) for name, seconds in recorded.items() if type(seconds) in (int, float)}


def _device_hours(run: RunFacts) -> float | None:
    """Return the hours of all GPUs together, or of the machine if it trained on its processor; None if they are not known."""
    if run.receipt.get("device") == "cpu":
        seconds = run.amounts.seconds
        return None if seconds is None else seconds / 3600
    processors = {text_of(attempt.machine.get("record"), "cpu_model") for attempt in run.attempts}
    gpu_seconds = [seconds for name, seconds in _devices(run).items() if name not in processors]
    return sum(gpu_seconds) / 3600 if gpu_seconds else None


def _utilization(run: RunFacts) -> Mapping[str, float]:
    phases = run.attempts[-1].phases.values() if run.attempts else ()
    return max(phases, key=lambda phase: phase.ended_at).utilization if phases else {}


def _weights(run: RunFacts) -> dict[str, str]:
    files = run.checkpoint.files if run.checkpoint else {}
    return {
        name: entry["sha256"] for name, entry in files.items() if name.endswith(".safetensors") and not name.startswith("training_state/")
    }


def _sources(run: RunFacts, full: bool) -> Iterator[DataSource]:
    for section in ("data.train", "data.pretraining"):
        sources = run.recipe.get(section)
        for source in sources if isinstance(sources, list) else ():
            if isinstance(source, dict):
                path, hub, stdlib = (
                    text_of(source, "path"),
                    text_of(source, "hub"),
                    text_of(source, "stdlib") or source.get("stdlib") is True,
                )
                fields: dict[str, Any] = {"path": path, "hub": hub, "stdlib": stdlib}
                name = source_name(SourceSection.model_construct(**fields))
                is_public = bool(stdlib) or (hub is not None and is_repository(hub))
                yield DataSource(name, is_public, (path or hub or "") if full else "")


def _settings(run: RunFacts) -> dict[str, str]:
    """Return the settings of the training that formats contain, except those that the recipe does not set."""
    names = ("optimizer.kind", "optimizer.lr", "schedule.kind", "training.batch_size", "training.precision", "training.seed")
    return {name: str(value) for name in names if (value := run.recipe.get(name)) is not None}


def _places(run: RunFacts) -> dict[str, str]:
    places = {"hosts": ", ".join(run.hosts), "command": run.command_line, "folder": str(run.path)}
    return {name: value for name, value in places.items() if value}


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None


def decimal(value: float, digits: int = 4) -> str:
    """Format a number with `digits` significant digits and without an exponent: 0.000081."""
    if value == 0:
        return "0"
    text = f"{value:.{digits - 1}e}"
    exponent = int(text.partition("e")[2])
    return f"{float(text):.{max(0, digits - 1 - exponent)}f}"
