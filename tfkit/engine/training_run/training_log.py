"""The log of a run. Its outputs: metrics.jsonl (the authoritative record), a terminal's live line, and trackers (such as wandb)."""

from collections.abc import Callable, Mapping
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from tfkit.carbon import Footprint
from tfkit.data import Loader
from tfkit.engine.assembly.components import Components, meta_model
from tfkit.engine.assembly.step_flops import flops_per_token
from tfkit.engine.training_run.run import Run
from tfkit.engine.training_run.trackers import TrackerQueue, open_trackers
from tfkit.run.metrics import MetricsLog, read_metrics
from tfkit.run.state_json import SavedLog, finite_or_none
from tfkit.training.device import memory_bytes
from tfkit.training.loop import Log
from tfkit.training.peak_speed import peak_flops
from tfkit.units import format_metrics


class TrainingLog:
    """The log of one attempt (start or resumption). It first deletes the lines of metrics.jsonl after the step from which this one resumes.
    As a context manager, the log shows the live line, and starts the trackers.

    `saved`: the part of the log in the checkpoint; if None (no checkpoint, or one of an older version), metrics.jsonl is used alone.
    """

    def __init__(self, run: Run, components: Components, saved: SavedLog | None):
        self.run, self.plan, self.progress = run, components.plan, components.progress
        loader, self._precision = components.loader, components.stepper.weights.dtype
        self._rows = Loader(loader.rows, run.data.objective.collate, loader.sizes, loader.micro_batch_size)
        self._metrics = MetricsLog(run.folder.metrics, run.listener.warn)
        self._metrics.cut_back(self.progress.step)
        self.latest: dict[str, Any] = {}
        self.evaluations: dict[int, dict[str, Any]] = {}
        self.sampled: set[int] = set()
        self.before: dict[str, float] | None = None  # the scores before the first step of a fine-tuning
        self._lines = 0
        for record in read_metrics(run.folder.metrics):
            if "loss" in record:
                self.latest = record
                self._lines += 1
            if "evaluation" in record:
                self.evaluations[record["step"]] = record["evaluation"]
            if "samples" in record:
                self.sampled.add(record["step"])
        if saved is not None:
            self._restore(saved)
        self._start_trackers: Callable[[], list[TrackerQueue]] = list
        if run.recipe.trackers or run.recipe.training.tensorboard:
            self._start_trackers = open_trackers(run, self.progress.step + 1)

    def state(self) -> SavedLog:
        """Return the part of the log that is stored in a checkpoint."""
        return SavedLog.of(self._lines, self.latest.get("loss"), self.evaluations, self.before)

    def _restore(self, saved: SavedLog) -> None:
        """Continue with the records in the checkpoint, and warn if metrics.jsonl lacks some of them."""
        lost = saved.lines - self._lines
        if lost > 0:
            self.latest = {"loss": saved.loss}
        unscored = [step for step, _ in saved.evaluations if step not in self.evaluations]
        if lost > 0 or unscored:
            missing = [f"{lost:,} of {saved.lines:,} records of steps"] if lost > 0 else []
            missing += [f"{len(unscored):,} of {len(saved.evaluations):,} evaluations"] if unscored else []
            self.run.listener.warn(
                f"{self.run.folder.metrics}: lacks {' and '.join(missing)} up to step {self.progress.step}. The run "
                "continues with the records in its checkpoint; the lines stay missing"
            )
        self._lines, self.before = saved.lines, saved.scores_before
        for step, values in saved.evaluations:
            logged = self.evaluations.get(step, {})
            # Equal scores stay as they were logged: those of the checkpoint have None for NaN and infinity.
            if {name: finite_or_none(value) for name, value in logged.items()} != values:
                self.evaluations[step] = dict(values)

    def __enter__(self) -> Self:
        self._line = self.run.listener.live()
        self._live = self._line.__enter__()
        self._trackers = self._start_trackers()  # not earlier, since only `__exit__` closes them
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._line.__exit__(kind, error, trace)
        for tracker in self._trackers:
            tracker.close()
        self._metrics.close()

    @property
    def terminal(self) -> bool:
        """Whether the output is a terminal with a live line, which shows every step."""
        return self._live.terminal

    @cached_property
    def flops_per_token(self) -> float:
        """The training FLOPs per token, by the forecast or, without one, computed from the architecture and some batches."""
        run, planned = self.run, self.run.planned
        if planned is not None:
            return planned.training_flops / planned.tokens
        return flops_per_token(run.recipe, run.data, meta_model(run.recipe, run.data.config), self._rows, self.plan.steps)

    @property
    def peak_flops(self) -> float | None:
        """The peak FLOP/s of the devices of all ranks; None if unknown. Except on CUDA, it is measured once, in a tenth of a second."""
        peak = peak_flops(self.run.device, self._precision)
        return None if peak is None else self.run.peers.ranks.size * peak

    def show(self, loss: float, lr: float, tokens_per_second: float, observed: Mapping[str, float]) -> None:
        """Update the live line; without a terminal, write a plain line. `observed`: other numbers to show, by name."""
        reading, progress = self.run.meter.reading(), self.progress
        known = reading.status != "off" and not (reading.status == "starting" and not reading.energy_wh)
        self._live.update(
            {
                "step": progress.step,
                "steps": self.plan.steps,
                "loss": loss,
                **observed,
                "lr": lr,
                "tokens_per_second": tokens_per_second,
                "eta_seconds": (self.plan.steps - progress.step) * progress.seconds / max(1, progress.step),
                "energy_wh": reading.energy_wh if known else None,
                "emissions_g": reading.emissions_g if known else None,
            }
        )

    def line(self, line: Log) -> None:
        """Append a line to metrics.jsonl, send it to the trackers, and show it if there is no live line.

        Raises MachineError if the run folder was deleted or moved.
        """
        self.run.folder.require_held()
        reading = self.run.meter.reading()
        used, rate = Footprint.from_reading(reading), line.tokens_per_second
        several = {f"{term}_loss": loss for term, loss in line.terms.items()} if len(line.terms) > 1 else {}
        self.latest = {
            "step": line.step,
            "tokens": line.tokens,
            "loss": line.loss,
            **several,
            **line.observed,
            "lr": line.lr,
            "grad_norm": line.grad_norm,
            "tokens_per_second": round(rate, 1),
            "mfu": round(rate * self.flops_per_token / self.peak_flops, 4) if self.peak_flops else None,
            "memory": memory_bytes(self.run.device),
            "energy_wh": None if used.energy_kwh is None else reading.energy_wh,
            "emissions_g": used.emissions_g,
        } | ({"skipped": line.skipped} if line.skipped else {})
        self._lines += 1
        self._metrics.append(self.latest)
        self._track(line.step, {name: value for name, value in self.latest.items() if name != "step"})
        if not self.terminal:
            self.show(line.loss, line.lr, rate, line.observed)

    def scores(self, step: int, metrics: dict[str, float], confusion: Mapping[str, Mapping[str, int]] | None) -> None:
        """Append the scores of an evaluation, with its confusion matrix if there is one, to metrics.jsonl, and show the scores."""
        self._metrics.append({"step": step, "evaluation": metrics} | ({"confusion": confusion} if confusion else {}))
        self._show_scores(step, f"step {step}", metrics)

    def scores_before(self, metrics: dict[str, float]) -> None:
        """Record the scores before the first step in run.json, and show them. Checkpoints store them, too; metrics.jsonl has no step 0."""
        self.before = metrics
        self.run.folder.record(before=metrics)
        self._show_scores(0, "before the first step", metrics)

    def _show_scores(self, step: int, when: str, metrics: dict[str, float]) -> None:
        self._track(step, {f"evaluation/{name}": value for name, value in metrics.items()})
        self.run.listener.say(f"{when}: validation {format_metrics(metrics)}")

    def samples(self, step: int, pairs: list[dict[str, str]], continues: bool = True) -> None:
        """Append the generated texts to metrics.jsonl, and show them. `continues`: each text continues its prompt, on the same line."""
        self.sampled.add(step)
        self._metrics.append({"step": step, "samples": pairs})
        between = "" if continues else "\n"
        for pair in pairs:
            lines = (pair["prompt"] + between + pair["completion"]).splitlines()
            self.run.listener.say(f"step {step} writes:\n" + "\n".join(f"    {line}" for line in lines))

    def _track(self, step: int, values: Mapping[str, float | None]) -> None:
        for tracker in self._trackers:
            tracker.add(step, values)

    def sync(self) -> None:
        """Sync metrics.jsonl to the disk, so that a power cut loses no line up to the step of a checkpoint."""
        self._metrics.sync()
