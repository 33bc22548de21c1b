"""Write and delete the checkpoints of a run. Each has a whole model, or an adapter of the base model, and the training state.

The best checkpoint, by the metric of the recipe, is recorded in the file best.json, so that it is not deleted as an old one.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from tfkit.adapters import Base, Merged, save_adapter
from tfkit.carbon import resolve_place
from tfkit.carbon.footprint import Intensity, RunTotals
from tfkit.durable import write_atomically
from tfkit.engine.assembly.components import Components
from tfkit.engine.assembly.training_data import TrainingData
from tfkit.engine.assembly.training_state import loader_state, save_training_state
from tfkit.engine.assembly.verdict import Comparison, advice, compare, predicts_one_class
from tfkit.engine.request.training_request import kind_of
from tfkit.engine.training_run.model_work import ModelWork
from tfkit.engine.training_run.run import Run
from tfkit.engine.training_run.training_log import TrainingLog
from tfkit.errors import UnhealthyError, UsageError
from tfkit.evaluation.baselines import Baselines
from tfkit.families import PRESETS
from tfkit.generation.config_file import stated_settings
from tfkit.hub import OWN_TYPE, save_model
from tfkit.recipe.schema.carbon_section import CarbonSection
from tfkit.recipe.schema.objective_sections import HIGHER
from tfkit.recipe.schema.sections import LoraSection, Recipe
from tfkit.run.best_json import best_checkpoint, read_best, record_best
from tfkit.run.card import CardBase, CardModel, CardTraining, model_card
from tfkit.run.card_facts import BaseCard, CardData
from tfkit.run.card_impact import CardImpact
from tfkit.run.checkpoints import checkpoints, prune, save_checkpoint, step_of
from tfkit.run.lineage import Inherited, Lineage, OwnTotals, ParentEntry, sum_inherited
from tfkit.run.machine import processor
from tfkit.run.state_json import TrainingState
from tfkit.tokenizer.conversations import end_ids
from tfkit.training.loop import Progress


class Checkpointer:
    """Writes the checkpoints of a run, deletes those that are not kept, and keeps their model cards up to date."""

    def __init__(self, run: Run, components: Components, log: TrainingLog):
        self.run, self.data, self.components, self.log = run, run.data, components, log
        self.model, self.weights = components.stepper.model, components.stepper.weights
        self.kind, self.family = kind_of(run.recipe), family_name(run.recipe, run.data)
        self.root = run.folder.checkpoints
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.work = ModelWork(run.recipe, components, run.stop.should_stop)
        self.best = BestCheckpoint(run, log)

    def save(self, progress: Progress) -> None:
        """Write a complete checkpoint, then delete old ones; delete some before it if the disk lacks space.

        Raises UnhealthyError if a weight is not finite, and MachineError if the run folder was deleted or moved.
        """
        run = self.run
        run.folder.require_held()
        run.meter.phase("checkpoint")
        if not self.work.are_finite():
            raise UnhealthyError(
                f"step {progress.step}: a weight is no longer finite, so this step is not saved; the last checkpoint stays. "
                "Another run may get past it with a lower optimizer.lr"
            )
        self.log.sync()
        with nullcontext() if run.budget is None else run.budget.saving():
            save_checkpoint(self.root, progress.step, lambda folder: self._write(folder, progress), lambda: self._prune(1))
            self._prune(run.recipe.checkpoint.keep)
        run.folder.update_time()
        run.meter.phase("train", progress.step)

    def record_scores(self, step: int, metrics: Mapping[str, float]) -> None:
        """If the step has a checkpoint, record its scores, which may make it the best one, and write them into its model card."""
        checkpoint = self.root / f"step-{step:06d}"
        if not checkpoint.is_dir():
            return
        self.best.record(step, metrics)
        self.write_card(checkpoint, step)
        self._prune(self.run.recipe.checkpoint.keep)  # the previous best may be deleted now

    @property
    def inherited(self) -> Inherited:
        """The energy and emissions of training all models from which the run's model descends."""
        return sum_inherited(self.run.ancestry.ancestors)

    def lineage(self) -> Lineage:
        """Return the run's parents and ancestors, and its energy by the meter's latest reading (a save does not wait for a new one)."""
        own = OwnTotals.of(self.run.meter.reading(), intensity_of(self.run.recipe.carbon))
        return Lineage(self.kind, tuple(ParentEntry(**parent.document()) for parent in self.run.parents), own, self.run.ancestry.ancestors)

    def write_card(self, checkpoint: Path, step: int, totals: RunTotals = RunTotals()) -> None:
        """Write the model card again, with the scores and energy known now. The manifest (hashes of the other files) stays valid.

        `totals`: the complete totals of run.json, if the attempt has ended.
        """
        try:
            write_atomically(checkpoint / "README.md", self._card(checkpoint, step, totals))
        except OSError as error:
            self.run.listener.warn(f"{checkpoint}: its card cannot be written again ({error.strerror})")

    def _write(self, folder: Path, progress: Progress) -> None:
        recipe, weights, data = self.run.recipe, self.weights, self.data.fingerprints()
        facts = {
            "objective": recipe.objective.saved_kind,
            "run_id": self.run.folder.run_id,
            "step": progress.step,
            "tokens": progress.tokens,
            "data": data,
            "lineage": self.lineage().document(),
        }
        if settings := recipe.objective.model_dump(mode="json", include={*recipe.objective.needed_alone}):
            facts["objective_settings"] = settings
        if weights.mean:
            facts["averaged"] = {"kind": "exponential", "decay": recipe.training.ema_decay, "steps": weights.mean_steps}
        facts |= self.work.facts()
        self._write_model(folder, facts)
        (folder / "README.md").write_text(self._card(folder, progress.step), encoding="utf-8")
        loader = self.components.loader
        loader_tensors, document = loader_state(loader, progress.step)
        state = TrainingState(progress.state(), loader.micro_batch_size, data, weights.mean_steps, self.log.state(), document)
        save_training_state(folder, self.work.tensors("state", loader_tensors), state)

    def _write_model(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write the current weights (with ema_decay, their moving average), the tokenizer, the labels, and `facts` for tfkit.json."""
        recipe, data, config, result = self.run.recipe, self.data, self.model.config, self.work.tensors("result")
        options: dict[str, Any] = {
            "family": self.family,
            "end_ids": end_ids(data.tokenizer),
            "labels": data.labels,
            "problem_type": recipe.objective.problem_type,
            "facts": facts,
            "generation": stated_settings(recipe.generation, data.start.described.generation if data.start is not None else None),
        }
        if self._adapter is None or data.start is None:
            save_model(folder, config, Merged(self.model, result), data.tokenizer, **options)
            return
        base = Base(data.start.path, data.start.described.folder, data.start.sha256)
        save_adapter(folder, config, {name: result[name] for name in self.weights.trained}, data.tokenizer, self._adapter, base, **options)

    @property
    def _adapter(self) -> LoraSection | None:
        """The recipe's adapter, if checkpoints consist of an adapter alone; None: they are whole models."""
        adapter = self.run.recipe.training.adapter
        return None if self.data.start is None or adapter is None or adapter.merge else adapter

    def _prune(self, keep: int) -> None:
        prune(self.root, keep, best_checkpoint(self.root))

    def _card(self, checkpoint: Path, step: int, totals: RunTotals = RunTotals()) -> str:
        progress, start = self.log.progress, self.data.start
        written = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        architecture = None if written["model_type"] == OWN_TYPE else written["architectures"][0]
        averaged = f"exponential moving average over the steps, decay {self.weights.ema_decay}" if self.weights.mean else ""
        return model_card(
            CardModel(self.run.folder.path.name, self.model.config, architecture, self.parameters, self.data.labels),
            CardTraining(self.kind, step, progress.tokens, self.log.latest.get("loss"), self.log.evaluations.get(step, {}), averaged),
            CardData.of(self.run.recipe.data),
            self._impact(totals),
            CardBase(start.path, BaseCard.read(start.described.folder), self._adapter is not None) if start else None,
        )

    def _impact(self, totals: RunTotals) -> CardImpact:
        carbon, tokens = self.run.recipe.carbon, self.log.progress.tokens
        now = RunTotals(tokens=tokens, train_flops=self.log.flops_per_token * tokens, pue=carbon.pue, intensity=intensity_of(carbon))
        gpu = f"{torch.cuda.get_device_name(self.run.device)}, " if self.run.device.type == "cuda" else ""
        return CardImpact(self.run.meter.reading(), f"{gpu}{processor()['name']}", self.inherited, totals.filled_from(now))


class BestCheckpoint:
    """The best checkpoint of a run so far, and its improvement on the model before the first step."""

    def __init__(self, run: Run, log: TrainingLog):
        self.run, self.log, self.root = run, log, run.folder.checkpoints
        self.metric = run.recipe.evaluation.metric or run.recipe.objective.trained_for.best_by

    def score(self, metrics: Mapping[str, float | None]) -> float:
        """Return the value by which checkpoints are compared.

        Return NaN, which is never best, if `metrics` lack that value, or their KL divergence exceeds objective.kl_limit.
        """
        value = metrics.get(self.metric)
        known = {name: number for name, number in metrics.items() if number is not None}
        return value if value is not None and self.run.recipe.objective.may_be_best(known) else math.nan

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the checkpoint of a step as the best if its score is the best so far. A disk error causes only a warning."""
        try:
            self._record(step, metrics)
        except OSError as error:
            self.run.listener.warn(
                f"{self.root / f'step-{step:06d}'}: its scores cannot be written there ({error.strerror}); training continues"
            )

    def restore(self) -> None:
        """If the record or the recorded checkpoint is lost, record the best of the complete checkpoints, so that it is not deleted."""
        if best_checkpoint(self.root) is not None:
            return
        complete = {step_of(path) for path in checkpoints(self.root)}
        for step, metrics in sorted(self.log.evaluations.items()):
            if step in complete:
                self._record(step, metrics)
        if best := read_best(self.root) if best_checkpoint(self.root) else None:
            self.run.listener.warn(
                f"{self.root}: no complete checkpoint was recorded as the best; according to the "
                f"evaluations so far it is that of step {best.step}"
            )

    def _record(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Record the checkpoint if its score is the best so far. Of equal scores, the one with the lower loss is better. Raises OSError."""
        old, loss = read_best(self.root), metrics.get("loss")
        known = self.log.evaluations.get(old.step, {}).get("loss") if old else None
        lower = loss is not None and known is not None and loss < known
        record_best(self.root, step, self.metric, self.score(metrics), self.metric in HIGHER, wins_ties=lower)

    def document(self) -> dict[str, Any] | None:
        """Return the field `best` of a training's result (docs/cli.md); None if there is no best checkpoint."""
        path, best = best_checkpoint(self.root), read_best(self.root)
        return {"checkpoint": str(path), "step": best.step, "metric": best.metric, "value": best.value} if path and best else None

    def describe_unsaved(self) -> str | None:
        """Return a warning if the step with the best score was not saved, so that the best checkpoint has a worse score; else None."""
        best, sign = self.document(), -1 if self.metric in HIGHER else 1
        if best is None or best["metric"] != self.metric:
            return None
        scores = {step: self.score(metrics) for step, metrics in self.log.evaluations.items()}
        better = {step: sign * score for step, score in scores.items() if sign * score < sign * best["value"]}
        if not better:
            return None
        step = min(better, key=lambda step: better[step])
        return (
            f"{self.run.folder.path}: {self.metric} was best in step {step:,}, {scores[step]:.4g}, but that step was not saved; the "
            f"best checkpoint is of step {best['step']:,}, {best['value']:.4g}. To save each evaluated step, set checkpoint.every to "
            "evaluation.every"
        )

    def improvement(self) -> float | None:
        """Return by how much the best checkpoint's score is better than the score before the first step; None if one of them is unknown."""
        before, best = (self.log.before or {}).get(self.metric), self.document()
        if before is None or best is None or best["metric"] != self.metric:
            return None
        return float(best["value"] - before if self.metric in HIGHER else before - best["value"])

    def scores(self) -> dict[str, float | None]:
        """Return all metrics of the best checkpoint; empty if there is none."""
        best = self.document()
        return {} if best is None else {**self.log.evaluations.get(best["step"], {}), best["metric"]: best["value"]}

    def comparison(self, baselines: Baselines) -> Comparison | None:
        """Compare the best checkpoint with the baselines (scores without a Transformer); None if either is missing."""
        return compare(baselines, self.scores(), self.metric)

    def warnings(self, baselines: Baselines, *, new_head: bool) -> Iterator[str]:
        """Yield warnings about a poor result, with what to try. `new_head`: the head had random weights before the first step."""
        if predicts_one_class(self.scores()):
            yield "the best checkpoint predicts the same class for every validation row: it has not learned to distinguish the classes"
        comparison = self.comparison(baselines)
        if comparison is not None and not (comparison.beats or comparison.is_perfect):
            losses = {step: metrics.get("loss") for step, metrics in self.log.evaluations.items()}
            optimizer, training = self.run.recipe.optimizer, self.run.recipe.training
            remedy = advice(self.log.before or {}, self.scores(), losses, optimizer.lr, training.epochs)
            yield f"this run does not beat its best baseline. {remedy}"
        if not new_head and (gain := self.improvement()) is not None and gain < 0:
            yield self._describe_deterioration()
        if unsaved := self.describe_unsaved():
            yield unsaved
        if self.log.evaluations and self.document() is None:
            yield self._describe_lack()

    def _describe_lack(self) -> str:
        """Return a warning that no checkpoint is the best one, with the reason."""
        scores = [metrics.get(self.metric) for metrics in self.log.evaluations.values()]
        if any(score is not None and math.isfinite(score) for score in scores):
            why = "each step that was saved exceeds objective.kl_limit. Raise that or objective.beta, or lower optimizer.lr"
        else:
            why = f"{self.metric} is not a number in any evaluation"
        return f"{self.run.folder.path}: no checkpoint is the best one, and commands take the newest: {why}"

    def _describe_deterioration(self) -> str:
        """Return a warning that the run made the model worse, with the scores and what to try."""
        before, best = self.log.before or {}, self.document()
        assert best is not None
        first, loss = before.get("loss"), self.log.evaluations.get(best["step"], {}).get("loss")
        learns = first is not None and loss is not None and loss < first  # even if the metric is not better yet
        return (
            f"this run made the model worse: {self.metric} {best['value']:.4g} at its best, in step {best['step']:,}, and "
            f"{before[self.metric]:.4g} before the first step. "
            + (f"But its loss fell to {loss:.4g}: try more steps" if learns else "Try a lower optimizer.lr, fewer steps, or other data")
        )


def family_name(recipe: Recipe, data: TrainingData) -> str | None:
    """Return the family in whose format the model is saved: the base model's or the preset's; None for any other model."""
    preset = recipe.model.preset
    return data.start.described.family if data.start else PRESETS[preset][0].name if preset else None


def intensity_of(section: CarbonSection) -> Intensity | None:
    """Return the carbon intensity of a run and its source, as in the totals of run.json; None if the run's place is no longer known."""
    try:
        place = resolve_place(section)
    except UsageError:  # the settings of CodeCarbon were changed since the run began
        return None
    return Intensity(g_per_kwh=place.intensity_g_per_kwh, source=place.dataset, year=place.year, kind=place.kind)
