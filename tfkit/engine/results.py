"""The results of the library's functions: the JSON documents that commands print with --json (docs/cli.md), as typed objects."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from tfkit.carbon.footprint import MEASURED, Footprint, Measurement
from tfkit.errors import DataError
from tfkit.run.metrics import read_metrics


@dataclass(frozen=True)
class _Result:
    """A result that has the fields of a command's JSON document as attributes."""

    document: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, document: dict[str, Any], **others: Any) -> Self:
        """Read the declared fields from the document; a field that the document lacks is None."""
        names = {one.name for one in fields(cls)} - {"document", *others}
        return cls(document, **{name: document.get(name) for name in names}, **others)

    def to_dict(self) -> dict[str, Any]:
        """Return the document, as --json prints it."""
        return dict(self.document)

    def __repr__(self) -> str:
        """Show the fields that have a value, one per line, those of energy and emissions last. A notebook shows this for a result."""
        names = sorted((one.name for one in fields(self) if one.repr), key=lambda name: name in MEASURED)
        shown = [f"    {name}={value!r},\n" for name in names if (value := getattr(self, name)) not in (None, [], {})]
        return f"{type(self).__name__}(\n{''.join(shown)})"


@dataclass(frozen=True, repr=False)
class TrainingResult(_Result, Measurement):
    """The result of pretrain, finetune and resume. `status`: finished or stopped; `seconds`: wall time, with that of all resumptions.

    For a recipe with stages, `stages` maps the name of each stage to its result; steps, tokens, time, energy and emissions are then sums,
    and fields about a single model are those of the last stage that was run.
    """

    run: str
    checkpoint: str | None  #: the folder of the last checkpoint; None: the run was stopped before the first
    status: str
    steps: int
    tokens: int
    loss: float | None  #: training loss per target (in nats if a cross-entropy): the mean over the steps of the last line of the log
    evaluation: dict[str, float | None]
    before: dict[str, float | None] | None  #: the metrics of `evaluation` before the first step of a fine-tuning; else None
    improvement: float | None  #: how much better than `before` the best checkpoint is, in the metric that chose it; negative if worse
    baselines: dict[str, dict[str, float]]  #: scores of simple methods on the validation rows, by the method's name
    beats_baseline: int | None  #: 1: the best checkpoint is better than each baseline; 0: it is not; None: there is no comparison
    best_baseline: dict[str, Any] | None  #: name, metric and value of the best baseline, and the best checkpoint's score
    new_head: bool | None  #: whether a fine-tuning began with a random head, so that `before` says little
    sequence_length: int | None  #: number of tokens of a training row, and of each piece into which validation texts are cut for scoring
    rate_trial: dict[str, Any] | None  #: the learning rates that were tried before the first step, and the chosen one (`lr`)
    best: dict[str, Any] | None
    stopped_early: bool
    stopped_by: str | None  #: the budget field that ended the run, or "request" (a signal, Ctrl-C or should_stop); None: it is finished
    seconds: float
    train_seconds: float
    tokens_per_second: float | None
    inherited_g: float | None  #: grams of CO2e of the runs from whose models this model descends; None: no emissions are known
    inherited_kwh: float | None
    inherited_is_lower_bound: bool | None
    gates: list[dict[str, Any]]  #: for each condition of --fail-if, whether it is true, which fails the command; empty for a call in Python
    stages: dict[str, "TrainingResult"] = field(repr=False)  #: empty for a recipe without stages

    @classmethod
    def of_training(cls, document: dict[str, Any]) -> Self:
        """Return the result in a document, with those of its stages if there are any."""
        stages = {name: cls.of_training(one) for name, one in document.get("stages", {}).items()}
        return cls.of(document, stages=stages)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl, a dict for each line: steps, evaluations, samples. pandas.DataFrame accepts this list.

        For a recipe with stages, these are the records of the last stage that was run. Raises DataError if a run with steps lacks the file.
        """
        if self.stages:
            return [*self.stages.values()][-1].history
        path = Path(self.run) / "metrics.jsonl"
        if self.steps and not path.exists():
            raise DataError(
                f"{path}: there is no such file; was the run moved or deleted? If it was moved, the result of tfkit.resume(run) has its "
                "history"
            )
        return [*read_metrics(path)]


@dataclass(frozen=True, repr=False)
class SweepResult(_Result):
    """The result of sweep. Time, energy and emissions are sums over all trials and their resumptions; `status` is finished or stopped."""

    run: str
    status: str
    metric: str | None  #: the metric by which trials are compared; None: no trial has a score yet
    planned_trials: int
    trials: list[dict[str, Any]]  #: for each trial its name, run, values, status, score, steps, seconds, energy, emissions and error
    best: dict[str, Any] | None  #: the finished trial with the best score, and its checkpoint
    seconds: float | None
    train_seconds: float | None
    tokens: int | None
    energy_kwh: float | None
    energy_kwh_parts: dict[str, float] | None
    emissions_g: float | None
    carbon_status: str | None
    stopped_by: str | None  #: the budget field that ended the sweep, or "request" (a signal, Ctrl-C or should_stop); None: it is finished
    selection_factor: float | None  #: emissions of all trials divided by those of the best trial
    gates: list[dict[str, Any]]


@dataclass(frozen=True, repr=False)
class EvaluationResult(_Result, Footprint):
    """The result of evaluate. `predictions` has a dict for each text, row or prompt, if the call asked for them."""

    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]  #: scores of simple methods on the same rows, by the method's name
    beats_baseline: int | None  #: 1: the model is better than each baseline; 0: it is not; None: there is no comparison
    best_baseline: dict[str, Any] | None
    intervals: dict[str, tuple[float, float]]  #: 95 % confidence interval of each metric
    bootstrap: int | None  #: the number of bootstrap samples from which `intervals` are computed
    examples: int
    tokens: int
    trained_on: int | None  #: how many scored texts were training data of the checkpoint's run; None: not known, or no texts scored
    checkpoint: str
    data: list[dict[str, str]]
    batch_size: int
    precision: str
    context_length: int
    sequence_length: int
    classes: dict[str, dict[str, float]] | None  #: precision, recall, f1 and support of each class or tag
    entities: dict[str, dict[str, float]] | None  #: precision, recall, f1 and support of each kind of entity that tags mark
    confusion: dict[str, dict[str, int]] | None  #: for each true class, how often each class was predicted; zeros are left out
    lost: dict[str, int] | None  #: number of labelled rows that the model could not process, by reason
    decoding: dict[str, Any] | None  #: the generation settings, if texts were generated
    bleu_tokenize: str | None
    inputs: int | None  #: the number of inputs for which texts were generated
    references: int | None  #: the number of references with which the generated texts were compared
    gates: list[dict[str, Any]]  #: for each condition of --fail-if, whether it is true, which fails the command; empty for a call in Python
    predictions: list[dict[str, Any]] = field(repr=False)


@dataclass(frozen=True)
class Completion:
    """The text that generate writes for a prompt. `finish`: stop (at an end token or a stop text) or length (max_new_tokens)."""

    prompt: str
    completion: str
    tokens: int
    finish: str
