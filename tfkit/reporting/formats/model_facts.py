"""The facts about a trained model that the formats of reports need, and the gaps: facts that are required, but unknown."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfkit.carbon.footprint import Intensity
from tfkit.errors import UsageError
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.reporting.inherited import Ancestry, ancestry_of
from tfkit.reporting.run_facts import RunFacts, mapping_of, text_of
from tfkit.run.card_facts import is_repository, source_name
from tfkit.run.lineage import Ancestor

_TRAININGS = {"pretrain": "pre-training", "finetune": "fine-tuning"}
_SELF_SUPERVISED = ("causal_lm", "masked_lm", "span_corruption", "distillation")
BOUNDARY = (
    "CPU, GPU and RAM of the machine, in tokenizing, training, evaluation and checkpoints; without network and storage, and with cooling "
    "only as far as PUE has it"
)


@dataclass(frozen=True)
class DataSource:
    """A source of the data on which a model was trained."""

    name: str  # without the folders of a path
    is_public: bool  # whether it is a data set of the Hub or Python's standard library
    path: str = ""  # the path, or else the name on the Hub; empty unless paths are requested


@dataclass(frozen=True)
class ModelFacts:
    """A trained model and its footprint. A field that is None or empty is not known or not requested."""

    run: RunFacts
    training: str  # pre-training or fine-tuning
    version: str  # the name of the checkpoint: step-000500
    started: str | None  # ISO 8601 in UTC
    ended: str | None
    ancestry: Ancestry
    parameters: int | None = None
    adapter_parameters: int | None = None  # the parameters of the adapter, if the checkpoint is one; `parameters` is then None
    architecture: str = ""
    layers: int | None = None
    objective: str = ""
    tokens: int | None = None  # tokens on which the model was trained, repetitions included
    flops: float | None = None  # of the training
    flops_basis: str = ""  # the method by which `flops` were counted
    country: str | None = None  # of the machine: ISO 3166 alpha-3
    data: tuple[DataSource, ...] = ()
    weights: Mapping[str, str] = field(default_factory=dict)  # SHA-256 by file
    metrics: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)  # some fields of the recipe's sections optimizer, schedule and training
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)  # CodeCarbon's description of the machine
    places: Mapping[str, str] = field(default_factory=dict)  # hosts, command and folder of the run; empty unless paths are requested

    @property
    def parents(self) -> list[Ancestor]:
        """The models from which this one was directly made."""
        return [self.ancestry.ancestors[index] for index in self.ancestry.parents]

    @property
    def approach(self) -> str:
        """The kind of learning, as CycloneDX names it."""
        if self.objective in _SELF_SUPERVISED:
            return "self-supervised"
        return "reinforcement-learning" if self.objective in ("grpo", "ppo") else "supervised"

    @property
    def phases(self) -> dict[str, tuple[float, float]]:
        """The kWh and grams of each phase; if they do not add up to the total, because ledgers were lost, only the total, as `train`."""
        total, grams = self.run.amounts.energy_kwh or 0.0, self.run.amounts.emissions_g or 0.0
        phases = {name: (sums["energy_wh"] / 1000, sums["emissions_g"]) for name, sums in self.run.phases.items()}
        return phases if abs(sum(energy for energy, _ in phases.values()) - total) <= 0.001 * total else {"train": (total, grams)}

    @property
    def measured(self) -> str:
        """How the energy of each component was obtained, as text."""
        return ", ".join(f"{part.upper()} by {source}" for part, source in self.provenance.items())

    @property
    def provenance(self) -> dict[str, str]:
        """How the energy of cpu, gpu and ram was obtained, as far as this is known: counter, model, constant or user."""
        return {part: source for part, source in (self.run.measurement.provenance or {}).items() if source}

    @property
    def intensity(self) -> Intensity:
        """The carbon intensity of the energy, and its source."""
        return self.run.measurement.intensity or Intensity()

    def gaps(self) -> Iterator[str]:
        """Yield notes on the facts that are unknown or incomplete."""
        if self.run.status != "finished":
            yield f"the run is {self.run.status}: its numbers are those until now"
        if self.adapter_parameters is not None:
            yield f"parameters: the checkpoint is an adapter of {self.adapter_parameters:,} parameters, without those of its base model"
        elif self.parameters is None:
            yield "parameters: there is no complete checkpoint"
        if self.flops is None:
            yield "computation: neither counted nor computable without parameters and tokens"
        if self.ancestry.sums.is_lower_bound:
            yield "inherited emissions: a lower bound, because those of some ancestors are unknown"
        yield from ["energy and emissions: not measured"] if self.run.amounts.energy_kwh is None else self._energy_gaps()
        yield "embodied emissions: not included"

    def _energy_gaps(self) -> Iterator[str]:
        if self.run.is_lower_bound:
            yield "energy and emissions: a lower bound, because a part of the run was not measured"
        if self.country is None and self.intensity.kind != "user":
            yield "place: unknown, so the world's average intensity is used"
        coverage = self.run.measurement.coverage
        if coverage is not None and coverage < 0.99:
            yield f"measured time: {coverage:.1%}; the rest is estimated"
        if self.run.amounts.energy_kwh_low is None:
            yield "range of the energy: not recorded"
        yield "water, network and storage: not included"


def describe_model(run: RunFacts, *, full: bool) -> ModelFacts:
    """Return the facts about the model that a run trained; if `full` is set, with paths, host names and the command line.

    Raises UsageError for a run that is not the training of one model.
    """
    training = _TRAININGS.get(run.kind or "")
    if training is None:
        kind = f"of kind {run.kind}" if run.kind else "not readable"
        raise UsageError(f"{run.path}: this format describes a trained model, and this run is {kind}; name the folder of one training")
    checkpoint, attempts = run.checkpoint, run.recorded.attempts
    parameters = checkpoint.parameters if checkpoint else None
    is_adapter = checkpoint is not None and checkpoint.is_adapter
    flops, basis = _flops(run, None if is_adapter else parameters)
    layers = [count for stack in ("encoder", "decoder") if type(count := run.recipe.get(f"model.{stack}_layers")) is int]
    names = checkpoint.config.get("architectures") if checkpoint else None
    settings = ("optimizer.kind", "optimizer.lr", "schedule.kind", "training.batch_size", "training.precision", "training.seed")
    places = {"hosts": ", ".join(run.hosts), "command": run.command_line, "folder": str(run.path)}
    country = str(run.attempts[-1].place.get("country_iso_code") or "") if run.attempts else ""
    return ModelFacts(
        run=run,
        training=training,
        version=checkpoint.path.name if checkpoint else "",
        started=attempts[0].started_utc if attempts else None,
        ended=run.recorded.last.ended_utc,
        ancestry=ancestry_of(run),
        parameters=None if is_adapter else parameters,
        adapter_parameters=parameters if is_adapter else None,
        architecture=str(names[0]) if isinstance(names, list) and names else "",
        layers=sum(layers) if layers else None,
        objective=str(run.recipe.get("objective.kind") or ""),
        tokens=run.recorded.totals.tokens,
        flops=flops,
        flops_basis=basis,
        country=country if country not in ("", "WLD") else None,
        data=tuple(source for name in ("data.train", "data.pretraining") for source in data_sources(run.recipe.get(name), full=full)),
        weights={name: file["sha256"] for name, file in checkpoint.weights.items()} if checkpoint else {},
        metrics={name: value for name, value in run.listed.metrics.items() if value is not None and name != "target_tokens"},
        settings={name: str(value) for name in settings if (value := run.recipe.get(name)) is not None},
        versions={str(name): str(version) for name, version in run.recorded.versions.items()},
        machine=mapping_of(run.attempts[-1].machine, "record") if run.attempts else {},
        places={name: value for name, value in places.items() if value and full},
    )


def _flops(run: RunFacts, parameters: int | None) -> tuple[float | None, str]:
    """Return the FLOPs of the training (None: not known) and how they were counted: by the run, or else as 6 x parameters x tokens."""
    if run.recorded.totals.train_flops:
        return run.recorded.totals.train_flops, "the matrix products of each step, forward and backward, by the architecture"
    if parameters is None or run.recorded.totals.tokens is None:
        return None, ""
    return 6.0 * parameters * run.recorded.totals.tokens, "6 operations for each parameter and token (C ~ 6 P D)"


def data_sources(sources: object, *, full: bool) -> Iterator[DataSource]:
    """Yield the sources in the value of a recipe's field, such as data.train; nothing for a value that is no list of sources."""
    for source in sources if isinstance(sources, list) else ():
        if isinstance(source, dict):
            path, hub = text_of(source, "path"), text_of(source, "hub")
            stdlib: Any = text_of(source, "stdlib") or source.get("stdlib") is True
            name = source_name(SourceSection.model_construct(path=path, hub=hub, stdlib=stdlib))
            is_public = bool(stdlib) or (hub is not None and is_repository(hub))
            yield DataSource(name, is_public, (path or hub or "") if full else "")


def decimal(value: float, digits: int = 4) -> str:
    """Format a number with `digits` significant digits and without an exponent: `decimal(8.1e-5, 2)` is 0.000081."""
    if value == 0:
        return "0"
    text = f"{value:.{digits - 1}e}"
    exponent = int(text.partition("e")[2])
    return f"{float(text):.{max(0, digits - 1 - exponent)}f}"
