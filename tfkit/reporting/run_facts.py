"""RunFacts: all facts about a run that a report may need. They are read once from the run's folder, and each report is made from them.

Reading never raises an error: a damaged folder is read as far as possible, and its problems are listed, with paths relative to the folder.
The time, energy and emissions of a run in progress or killed come from its ledgers (files with the meter's readings), if any.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tfkit.carbon.footprint import RunTotals, describe_sources, sum_totals
from tfkit.carbon.ledger import Attempt
from tfkit.carbon.totals import attempts_of, has_gaps, reading_of, totals_of, wall_seconds
from tfkit.errors import ModelError, reason_of
from tfkit.recipe.reading.parse import parse
from tfkit.recipe.reading.tree import flatten, plain
from tfkit.regular_files import read_limited
from tfkit.reporting.metric_lines import Confusion, MetricLines, confusion_of, read_metric_lines
from tfkit.run.best_json import best_checkpoint
from tfkit.run.checkpoints import newest_checkpoint
from tfkit.run.fitting_fields import LARGEST
from tfkit.run.lineage import ParentEntry
from tfkit.run.listing import ListedRun, read_run_and_document
from tfkit.run.manifest import Entry, read_manifest
from tfkit.run.model_files import MIB, find_file, read_object
from tfkit.run.run_json import CHAIN, SWEEP, RunDocument, member_folders
from tfkit.run.safetensors_header import read_header
from tfkit.run.tfkit_json import ModelDocument, read_tfkit_json
from tfkit.units import baseline_metric

_MOST_BYTES = 256 << 20  # bytes; if all ledgers together are larger, none is read


@dataclass(frozen=True)
class CheckpointFacts:
    """The facts about the best checkpoint of a run or, if that is unknown or incomplete, about the newest complete one."""

    path: Path
    config: Mapping[str, Any] = field(default_factory=dict)  # config.json
    document: ModelDocument = field(default_factory=ModelDocument)  # tfkit.json
    files: Mapping[str, Entry] = field(default_factory=dict)  # manifest.json: size and SHA-256 by name
    problems: tuple[str, ...] = ()  # why config.json or tfkit.json could not be read

    @property
    def is_adapter(self) -> bool:
        """Whether the checkpoint contains only an adapter, without the weights of its base model."""
        return "adapter_config.json" in self.files

    @property
    def weights(self) -> dict[str, Entry]:
        """The files of the model's weights, by name."""
        return {name: file for name, file in self.files.items() if name.endswith(".safetensors") and not name.startswith("training_state/")}

    @cached_property
    def parameters(self) -> int | None:
        """The number of parameters in `weights`, without an adapter's base model; None if a file is damaged, or if there is no file."""
        try:
            return sum(math.prod(one.shape) for name in self.weights for one in read_header(self.path / name).values()) or None
        except ModelError:
            return None


@dataclass(frozen=True)
class RunFacts:
    """The facts about one run folder."""

    path: Path
    listed: ListedRun
    recorded: RunDocument = field(default_factory=RunDocument)  # run.json; without values if it cannot be read
    recipe_text: str = ""  # the text of recipe.yaml, which has all fields of the recipe
    recipe: Mapping[str, Any] = field(default_factory=dict)  # the values of recipe.yaml by dotted name, such as optimizer.lr
    metrics: MetricLines = field(default_factory=MetricLines)
    attempts: tuple[Attempt, ...] = ()  # the ledgers: one for each attempt (start or resumption) on each node
    checkpoint: CheckpointFacts | None = None
    members: tuple["RunFacts", ...] = ()  # the stages of a chain or trials of a sweep that have been started
    problems: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name or self.path.resolve().name

    @property
    def status(self) -> str:
        """The status: finished, stopped, failed, killed, running or new; damaged or foreign if the folder is not a readable run."""
        return self.listed.status

    @property
    def kind(self) -> str | None:
        """The command, such as pretrain or evaluate; stages or sweep for a folder of several runs; None: not recorded."""
        return self.listed.kind

    @property
    def is_group(self) -> bool:
        """Whether the run is a chain (of a recipe's stages) or a sweep, whose amounts are the sums over its `members`."""
        return self.kind in (CHAIN, SWEEP)

    @property
    def run_id(self) -> str | None:
        """The run's UUID; None: not recorded."""
        return self.recorded.run_id or None

    @property
    def hosts(self) -> list[str]:
        """The names of the hosts of all attempts, sorted."""
        return sorted({attempt.host for attempt in self.recorded.attempts if attempt.host})

    @property
    def command_line(self) -> str:
        """The command line that started or last resumed the run; empty if it was not recorded."""
        return " ".join(self.recorded.command or ())

    @cached_property
    def amounts(self) -> RunTotals:
        """The time, energy and emissions until now: the sums over stages or trials, else the totals in run.json, else the ledgers' sums.

        While an attempt is in progress, or if the last one was killed, the totals in run.json are used only if there are no ledgers, or if
        the ledgers have less energy.
        """
        if self.is_group and self.members:
            return sum_totals([member.amounts for member in self.members])
        recorded = self.recorded.totals
        is_current = self.status not in ("running", "killed", "damaged") and recorded.seconds is not None
        if is_current or not self.attempts:
            known = recorded.seconds is not None or not self.recorded.attempts
            return recorded if known else replace(recorded, seconds=self.recorded.seconds({}))
        measured = replace(self._of_ledgers, seconds=reading_of(self.attempts).seconds)
        if measured.energy_kwh is not None and (recorded.energy_kwh or 0.0) > measured.energy_kwh:
            return recorded  # so a ledger was lost after run.json was written
        return measured

    @cached_property
    def measurement(self) -> RunTotals:
        """How the energy was measured (coverage, pue, ...): from run.json, else the ledgers; of a running or killed run, the ledgers."""
        return self._of_ledgers if self.status in ("running", "killed") else self.recorded.totals.filled_from(self._of_ledgers)

    @cached_property
    def _of_ledgers(self) -> RunTotals:
        seconds = self.recorded.totals.seconds or sum(wall_seconds(self.attempts).values())
        return totals_of(self.attempts, seconds) if self.attempts else RunTotals()

    @property
    def baselines(self) -> dict[str, dict[str, float]]:
        """The scores of baselines on the validation rows, by baseline and then by metric; empty if none are recorded."""
        scores = {str(name): one for name, one in mapping_of(self.recorded.result, "baselines").items() if isinstance(one, Mapping)}
        return {name: {metric: value for metric in one if (value := number_of(one, metric)) is not None} for name, one in scores.items()}

    @property
    def best_metrics(self) -> dict[str, float]:
        """All metrics of the best checkpoint; empty if there is none, or if metrics.jsonl lacks its evaluation."""
        step = (self.listed.best or {}).get("step")
        return next((values for at, values in reversed(self.metrics.evaluations) if at == step), {})

    @property
    def score(self) -> tuple[str, float] | None:
        """The metric and the score of the best checkpoint or else of the latest evaluation; None if nothing was evaluated.

        The metric is the one by which the run is compared with baselines or, without a score by it, the one that chooses checkpoints.
        """
        best = self.listed.best or {}
        chosen = str(best.get("metric") or next(iter(self.listed.metrics), ""))
        known = {chosen: best["value"]} | self.best_metrics if best else self.listed.metrics
        metric = baseline_metric(self.baselines, chosen)
        metric = metric if metric is not None and metric in known else chosen
        return None if (value := number_of(known, metric)) is None else (metric, value)

    @property
    def confusion(self) -> Confusion:
        """The confusion matrix of an evaluation's result, or of a training's best checkpoint or else latest evaluation; {} without one."""
        return confusion_of(self.recorded.result or {}) or self.metrics.confusion

    @property
    def place(self) -> str | None:
        """The machine's place and the carbon intensity as text, such as `place unknown, world average 475 g/kWh`; None: not recorded."""
        return self.recorded.totals.place or (str(self.attempts[-1].place.get("text") or "") or None if self.attempts else None)

    @property
    def provenance(self) -> str:
        """How the energy of each component was obtained, such as `GPU counter, CPU model, RAM constant`; empty if it was not measured."""
        return describe_sources(self.measurement.provenance or (self.attempts[-1].components if self.attempts else {}))

    @property
    def is_lower_bound(self) -> bool:
        """Whether the energy is a lower bound, because an attempt was not measured, or only in part."""
        if self.is_group:
            return any(member.is_lower_bound for member in self.members)
        if not self.attempts:
            return self.amounts.energy_kwh is not None and self.recorded.totals.carbon_status != "ok"
        return has_gaps([*self.attempts], len(self.recorded.attempts))

    @cached_property
    def phases(self) -> dict[str, dict[str, float]]:
        """The sums of `seconds`, `energy_wh` and `emissions_g` by phase: `train`, or `small: train` of the stage or trial `small`."""
        phases: dict[str, dict[str, float]] = {}
        for attempt in self.attempts:
            for name, phase in attempt.phases.items():
                sums = phases.setdefault(name, {"seconds": 0.0, "energy_wh": 0.0, "emissions_g": 0.0})
                for key in sums:
                    sums[key] += phase.sums[key]
        members = self.members if self.is_group else ()
        return phases | {f"{member.name}: {name}": sums for member in members for name, sums in member.phases.items()}

    @property
    def parents(self) -> Sequence[ParentEntry]:
        """The models from which the run started, learned (such as a teacher) or took its tokenizer."""
        if self.recorded.parents is not None or self.checkpoint is None:
            return self.recorded.parents or ()
        return self.checkpoint.document.parents


def read_facts(path: Path) -> RunFacts:
    """Read the facts about a run, and about its stages or trials as far as they have been started. No file is changed."""
    listed, recorded = read_run_and_document(path)
    if listed.status == "foreign":
        return RunFacts(path, listed, problems=(listed.problem or "",))
    metrics = read_metric_lines(path / "metrics.jsonl", (listed.best or {}).get("step"))
    attempts, ledger_problems = _read_ledgers(path / "carbon", recorded.run_id or None)
    checkpoint = _read_checkpoint(path / "checkpoints")
    recipe_text, recipe, recipe_problems = _read_recipe(path / "recipe.yaml")
    # Symbolic links, and names in run.json that lead out of the run folder, are not followed.
    inside = [member for name, member in member_folders(path).items() if Path(name).name == name] if recorded.run_id else []
    members = tuple(read_facts(member) for member in inside if member.is_dir() and not member.is_symlink())
    damage = [listed.problem] if listed.status == "damaged" and listed.problem else []
    problems = [*damage, *metrics.problems, *ledger_problems, *recipe_problems, *(checkpoint.problems if checkpoint else ())]
    shown = tuple(problem.replace(f"{path}/", "") for problem in problems)
    return RunFacts(path, listed, recorded, recipe_text, recipe, metrics, attempts, checkpoint, members, shown)


def _read_checkpoint(root: Path) -> CheckpointFacts | None:
    """Return the facts about the best or else the newest checkpoint in `root`, a run's folder `checkpoints`; None if none is complete."""
    path = None
    with suppress(OSError):
        path = best_checkpoint(root) or newest_checkpoint(root)
    if path is None:
        return None
    problems: list[str] = []
    config: dict[str, Any] = {}
    document, files = ModelDocument(), {}
    try:
        config = read_object(path / "config.json", 16 * MIB) if find_file(path, "config.json") else {}
    except (ModelError, OSError) as error:
        problems.append(f"{path.name}: {error}")
    try:
        document = read_tfkit_json(path)
    except (ModelError, OSError) as error:
        problems.append(f"{path.name}: {error}")
    with suppress(ModelError, OSError):
        files = read_manifest(path)
    return CheckpointFacts(path, config, document, files, tuple(problems))


def _read_ledgers(folder: Path, run_id: str | None) -> tuple[tuple[Attempt, ...], list[str]]:
    """Return the ledgers of the run, and their problems. If `run_id` is None (run.json cannot be read), ledgers of any run are used."""
    try:
        paths = sorted(folder.glob("*.jsonl"))
        if sum(path.stat().st_size for path in paths) > _MOST_BYTES or not all(path.is_file() for path in paths):
            return (), ["carbon: the ledgers are too large, or no regular files, and were not read"]
        attempts = attempts_of(folder.parent, run_id, keeps_ticks=True)
    except OSError as error:
        return (), [f"carbon: {reason_of(error)}"]
    dropped = sum(attempt.lines_dropped for attempt in attempts)
    unread = len(paths) - len(attempts)
    problems = [f"carbon: {dropped:,} lines of the ledgers could not be read"] if dropped else []
    problems += [f"carbon: {unread} of {len(paths)} ledgers have no header, or belong to another run"] if unread else []
    return tuple(attempts), problems


def _read_recipe(path: Path) -> tuple[str, dict[str, Any], list[str]]:
    """Return the text of recipe.yaml, its values by dotted name, and its problems."""
    try:
        text = read_limited(path, 4 << 20).decode()
    except FileNotFoundError:
        return "", {}, []
    except (OSError, UnicodeDecodeError) as error:
        return "", {}, [f"recipe.yaml: {reason_of(error)}"]
    with suppress(ValueError):
        node, problems = parse(text, path.name)
        values = plain(node) if node is not None else None
        if isinstance(values, dict) and not problems:
            return text, flatten(values), []
    return text, {}, ["recipe.yaml: is not a recipe that can be read"]


def number_of(values: Any, name: str) -> float | None:
    """Return the number `name` of a JSON object; None if it is missing, not a number, or of magnitude LARGEST or more."""
    value = values.get(name) if isinstance(values, Mapping) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST else None


def text_of(values: Any, name: str) -> str | None:
    """Return the string `name` of a JSON object; None if it is missing, empty or not a string."""
    value = values.get(name) if isinstance(values, Mapping) else None
    return value if isinstance(value, str) and value else None


def mapping_of(values: Any, name: str) -> Mapping[str, Any]:
    """Return the object `name` of a JSON object; {} if it is missing or not an object."""
    value = values.get(name) if isinstance(values, Mapping) else None
    return value if isinstance(value, Mapping) else {}
