"""What every training command wires together: data, model, loop, checkpoints, and the run folder around them."""

import math
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from tfkit.carbon import Reading
from tfkit.data import Loader
from tfkit.durable import write_atomically
from tfkit.engine.checkpointing import adapted, write_model
from tfkit.engine.companions import companion_bytes_per_row, companion_flops_per_token, parents
from tfkit.engine.components import assemble, restore, state_tensors
from tfkit.engine.estimate import kept_numbers, most_rows, planned_bytes, trained_numbers
from tfkit.engine.resuming import require_length, warn_of_other_rounding
from tfkit.engine.session import energy_fields, place_fields
from tfkit.engine.training_data import RunContext, TrainingData
from tfkit.engine.training_log import SavedLog, TrainingLog
from tfkit.engine.validation import score_validation
from tfkit.errors import DataError, MachineError, ModelError, Stopped, UnhealthyError
from tfkit.hub import family_of
from tfkit.model.transformer import Transformer
from tfkit.recipe.schema.best_metric import HIGHER
from tfkit.run import strict_json
from tfkit.run.card import model_card
from tfkit.run.checkpoints import (
    best_checkpoint,
    checkpoints,
    free_space_for,
    newest_good,
    prune,
    read_best,
    record_best,
    save_checkpoint,
    step_of,
)
from tfkit.run.replay_file import write_replay
from tfkit.training.checkpoint import load_training_state, save_training_state
from tfkit.training.device import eager, keep_freed_memory, make_deterministic, peak_flops
from tfkit.training.flops import adapted_flops_per_token, training_flops_per_token
from tfkit.training.health import StepReport, UnhealthyStepError
from tfkit.training.loop import Log, Progress, train, try_out
from tfkit.training.memory import available_bytes, largest_divisor, likely_peak, resident_bytes, rows_that_fit, step_bytes_per_row
from tfkit.training.patience import since_best
from tfkit.training.replay import describe_step


class TrainingRun:
    """One run of the loop with everything it needs; also the hooks that the loop calls."""

    def __init__(
        self, context: RunContext, data: TrainingData, model: Transformer, *, kind: str, family: str | None, exact: bool, force: bool
    ):
        self.context, self.data, self.model, self.kind, self.family = context, data, model, kind, family
        self.listener = context.listener
        recipe, config = context.recipe, model.config
        make_deterministic(context.device)
        keep_freed_memory()
        self.resumed_from = newest_good(context.folder.checkpoints, self.listener.warn, exact)
        tensors, state = load_training_state(self.resumed_from) if self.resumed_from else ({}, {})
        saved_log = None
        if self.resumed_from:
            saved_log = _saved_log(self.resumed_from, state)
            _check_same_data(state["data"], data.fingerprints())
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.trained = trained_numbers(model)
        if self.trained < self.parameters:
            self.listener.say(f"training {self.trained:,} of {self.parameters:,} parameters")
        if not force:
            free_space_for(context.folder.checkpoints, planned_bytes(recipe, model))
        parts = assemble(recipe, data, model, context.device, state.get("micro_batch_size") or recipe.training.micro_batch_size or 1)
        self.precision, self.loader, self.plan, self.stepper = parts.precision, parts.loader, parts.plan, parts.stepper
        self.schedule = parts.schedule
        self.weights, self.optimizer = parts.weights, parts.optimizer
        self.progress = restore(parts, self.resumed_from, tensors, state) if self.resumed_from else Progress()
        require_length(context.folder.path, self.plan.steps, self.progress.step)
        if not self.resumed_from and recipe.training.micro_batch_size is None:
            self.loader.micro_batch_size = self._pick_micro_batch()
        if recipe.training.compile:
            for stack in model.stacks:
                stack.compile()
        length, peak = round(self.loader.rows.mean_tokens), peak_flops(context.device, self.precision)
        first = self.loader.step(0)
        written = sum(batch.written for batch in first) / sum(batch.tokens for batch in first)
        flops = training_flops_per_token(config, length, written) + companion_flops_per_token(data.objective, length)
        flops += adapted_flops_per_token(dict(model.named_parameters()), config, written)
        self.written = TrainingLog(context, self.plan, self.progress, flops, peak, saved_log)
        self.metric = recipe.evaluation.metric or "loss"

    def begin(self) -> None:
        """Write down what the attempt goes on from, and on what it runs: from here on the result of an attempt before is no more."""
        context = self.context
        training = context.recipe.training
        arithmetic = {
            "threads": torch.get_num_threads(),
            "device": str(context.device),
            "precision": str(self.precision),
            "compile": training.compile,
            "activation_checkpointing": training.activation_checkpointing,
        }
        if self.resumed_from:
            warn_of_other_rounding(context.folder, arithmetic, context.listener)
            context.folder.goes_on(self.resumed_from, self.progress.step)
            self._restore_best()
        context.folder.record(**arithmetic, data=self.data.fingerprints(), parents=self._parents())

    def run(self) -> None:
        """Train to the end. Raises Stopped after saving, UnhealthyError before a bad update."""
        context = self.context
        if self.resumed_from:
            self.listener.say(f"resuming from {self.resumed_from.name}")
        if not self.schedule.reaches_its_peak:
            self.listener.warn(f"the warm-up is longer than the run of {self.plan.steps} steps: the learning rate never reaches its peak")
        self.listener.say(self._describe_size())
        self._try_out()
        context.meter.phase("train", self.progress.step)
        with self.written:
            try:
                train(self.stepper, self.loader, self.schedule, self.plan, self, self.progress)
            except Stopped:
                context.folder.end_attempt("stopped", step=self.progress.step)
                raise

    @property
    def counted(self) -> dict[str, float]:
        """Seconds and tokens of all steps, of earlier attempts, too."""
        return {"train_seconds": round(self.progress.seconds, 3), "tokens": self.progress.tokens}

    def finish(self, reading: Reading) -> dict[str, Any]:
        """Close the log and write the receipt of a finished run, whose totals are recorded; the result of docs/cli.md."""
        self.written.close()
        progress, folder = self.progress, self.context.folder
        result: dict[str, Any] = {
            "schema_version": 1,
            "run": str(folder.path),
            "checkpoint": str(folder.checkpoints / f"step-{progress.step:06d}"),
            "status": "finished",
            "steps": progress.step,
            "tokens": progress.tokens,
            "loss": self.written.latest.get("loss"),
            "evaluation": self.written.evaluations.get(progress.step, {}),
            "best": self._best(),
            "stopped_early": progress.step < self.plan.steps,
            "seconds": folder.totals["seconds"],
            "train_seconds": round(progress.seconds, 3),
            "tokens_per_second": round(progress.tokens / progress.seconds, 1) if progress.seconds else None,
            **energy_fields(reading),
            **place_fields(reading),
        }
        result = strict_json.loads(strict_json.dumps(result))  # as --resume will read it back; a perplexity may be infinite
        self._write_card(Path(result["checkpoint"]))
        folder.record(result=result)
        folder.end_attempt("finished", step=progress.step)
        return result

    # ------------------------------------------------------------------------------------------ the hooks of the loop

    def stepped(self, progress: Progress, report: StepReport, seconds: float) -> None:
        """Show the step on a terminal's live line."""
        if self.written.terminal:
            self.written.show(report.loss, report.lr, report.tokens / seconds)

    def skipped(self, error: UnhealthyStepError) -> None:
        """Say so."""
        self.listener.warn(f"{error.summary}; it is skipped, {self.progress.skipped} of at most {self.plan.max_skipped_steps}")

    def unhealthy(self, error: UnhealthyStepError) -> str:
        """Leave a small file from which, with the last checkpoint, the step can be taken again."""
        path = self.context.folder.path
        try:
            write_replay(path, describe_step(self.stepper, self.loader, error))
        except OSError as trouble:
            return f"The step could not be written down for tfkit replay ({trouble.strerror})"
        return f"`tfkit replay {path}` takes the step again and names the first module that goes wrong"

    def out_of_memory(self, error: str) -> None:
        """Halve the micro-batches, if the recipe leaves them to us."""
        rows = self.loader.micro_batch_size
        advice = "a smaller model or model.context_length, training.activation_checkpointing=true, or more memory"
        if self.context.recipe.training.micro_batch_size is not None and rows > 1:
            raise MachineError(f"out of memory in micro-batches of {rows} rows ({error}): leave training.micro_batch_size out, or lower it")
        if rows == 1:
            raise MachineError(f"out of memory with a single row of {self.loader.rows.longest} tokens ({error}): use {advice}")
        self.loader.micro_batch_size = largest_divisor(self.loader.sizes.unit, rows // 2)
        self.listener.warn(
            f"out of memory in micro-batches of {rows} rows: they have {self.loader.micro_batch_size} from now on, in the same steps"
        )

    def nondeterministic(self, reason: str) -> None:
        """Warn that resuming is not exact here."""
        self.listener.warn(f"{reason}; it runs all the same, and a resumed run may differ from one that was never stopped in its last bits")

    def log(self, line: Log) -> None:
        """Write a line of the log."""
        self.written.line(line)
        self.context.folder.keep_time()
        if warning := self.context.meter.warning():
            self.listener.warn(warning)

    def save(self, progress: Progress) -> None:
        """Write a complete checkpoint, then let old ones go."""
        context = self.context
        context.meter.phase("checkpoint")
        root, recipe = context.folder.checkpoints, context.recipe

        def write(folder: Path) -> None:
            facts = {
                "objective": recipe.objective.kind,
                "run_id": context.folder.run_id,
                "step": progress.step,
                "tokens": progress.tokens,
                "data": self.data.fingerprints(),
                "lineage": {"training": self.kind, "parents": self._parents()},
            }
            if self.weights.mean:
                facts["averaged"] = {"kind": "exponential", "decay": recipe.training.ema_decay, "steps": self.weights.mean_steps}
            write_model(folder, recipe, self.data, self.model, self.weights, self.family, facts)
            (folder / "README.md").write_text(self._card(), encoding="utf-8")
            state = {"progress": progress.state(), "micro_batch_size": self.loader.micro_batch_size, "data": self.data.fingerprints()}
            state |= {"mean_steps": self.weights.mean_steps, "log": self.written.state()}
            save_training_state(folder, state_tensors(self.weights, self.optimizer, factors=recipe.training.adapter is not None), state)

        def make_room() -> None:
            prune(root, 1, best_checkpoint(root))

        if not self.weights.finite():
            raise UnhealthyError(
                f"step {progress.step}: a weight is no longer finite, so this is not saved; the last checkpoint stays. "
                "Another run may get past it with a lower optimizer.lr"
            )
        self.written.sync()
        save_checkpoint(root, progress.step, write, make_room)
        prune(root, recipe.checkpoint.keep, best_checkpoint(root))
        context.folder.keep_time()
        context.meter.phase("train", progress.step)

    def evaluate(self, progress: Progress) -> None:
        """Score the validation text, and let the model write: what of the two is not in metrics.jsonl yet. Raises Stopped."""
        self.context.meter.phase("evaluate")
        if self.data.validation and progress.step not in self.written.evaluations:
            self._note_scores(progress.step, self._score())
        if self.context.recipe.generation.prompts and progress.step not in self.written.sampled:
            self._write_samples(progress.step)
        self.context.meter.phase("train")

    def evaluated(self, step: int) -> bool:
        """Whether all of this step's evaluation stands in metrics.jsonl."""
        scored = step in self.written.evaluations or not self.data.validation
        return scored and (step in self.written.sampled or not self.context.recipe.generation.prompts)

    def enough(self) -> bool:
        """Whether training.patience is at its end."""
        patience = self.context.recipe.training.patience
        if patience is None:
            return False
        values = [metrics.get(self.metric) for _, metrics in sorted(self.written.evaluations.items())]
        return since_best(values, self.metric in HIGHER) >= patience

    def should_stop(self) -> bool:
        """Whether the run is asked to stop."""
        return self.context.stop.should_stop()

    # ------------------------------------------------------------------------------------------------------- the parts

    def _parents(self) -> list[dict[str, str | None]]:
        """The models that this one comes from."""
        return [*([self.data.start.parent()] if self.data.start else []), *parents(self.data.objective)]

    def _pick_micro_batch(self) -> int:
        """The largest divisor of the batch size that is worth it and, on a CPU, fits the memory that is left."""
        longest = self.loader.rows.longest
        if self.context.device.type != "cpu":
            return largest_divisor(self.loader.sizes.unit, most_rows(longest))
        left = available_bytes()
        fitting = rows_that_fit(self._row_bytes, None if left is None else left - self._bytes_to_come)
        return largest_divisor(self.loader.sizes.unit, min(most_rows(longest, self._row_bytes), fitting))

    @cached_property
    def _row_bytes(self) -> int:
        """The activations of the longest row, on a CPU."""
        rows = self.loader.rows
        first = Loader(rows, self.loader.collate, 1, 1).step(0)[0]  # not the longest where rows are not grouped by length
        longer = max(1.0, rows.longest / first.tokens)
        row = int(step_bytes_per_row(self.stepper.loss_module, first) * longer)
        return row + companion_bytes_per_row(self.stepper.objective, rows.longest)

    @property
    def _bytes_to_come(self) -> int:
        """Gradients, and what is kept beside weights: not there before the first step, but for the state that a resumed run has read."""
        return 4 * (self.trained + (0 if self.resumed_from else kept_numbers(self.context.recipe, self.model)))

    def _describe_size(self) -> str:
        """The size of the steps, and on a CPU that of the memory: what may be too much, before it is waited for."""
        rows, sizes, micro_batch = self.loader.rows, self.loader.sizes, self.loader.micro_batch_size
        size = f"{self.plan.steps:,} steps of {sizes.full:,} rows, about {round(sizes.full * rows.mean_tokens):,} tokens each"
        size += f"; micro-batches of {micro_batch:,} rows, at most {micro_batch * rows.longest:,} tokens"
        held = resident_bytes() if self.context.device.type == "cpu" else None
        if held is None:
            return size
        head = self.model.config.head.kind in ("lm", "masked_lm")
        itemsize = self.precision.itemsize
        logits = micro_batch * rows.longest * self.model.config.vocab_size * itemsize if head else 0
        peak = likely_peak(held, self._bytes_to_come, micro_batch * self._row_bytes, logits)
        left = available_bytes()
        return size + f"; about {peak / 1e9:.2g} GB of memory" + ("" if left is None else f", of {(left + held) / 1e9:.3g} GB")

    def _try_out(self) -> None:
        """What has to be compiled is compiled, and on a GPU the largest micro-batch tried, where a signal can end it at once."""
        if not self.context.recipe.training.compile and self.context.device.type == "cpu":
            return
        saved = f"; the run goes on from {self.resumed_from.name} with --resume" if self.resumed_from else ""
        with self.context.stop.at_once(f"no step was taken yet{saved}"), warnings.catch_warnings():
            # The compiler traces under anomaly detection, which warns with a traceback where a signal ends it.
            warnings.filterwarnings("ignore", r"Error detected in \w+Backward")
            if self.context.recipe.training.compile:
                self.listener.say("compiling the model")
            try_out(self.stepper, self.loader, self, self.progress)

    def _score(self) -> dict[str, float]:
        with eager(self.model), self.weights.result_at_work():
            metrics = score_validation(self.context.recipe, self.data, self.model, self.should_stop)
        if metrics is None:
            raise Stopped("stopped during the evaluation")
        return metrics

    def _note_scores(self, step: int, metrics: dict[str, float]) -> None:
        """The line of the log comes last: a run that is killed before it scores again, and all of this is done again."""
        self.written.evaluations[step] = metrics
        root = self.context.folder.checkpoints
        checkpoint = root / f"step-{step:06d}"
        if checkpoint.is_dir():
            try:
                record_best(root, step, self.metric, metrics.get(self.metric, math.nan), self.metric in HIGHER)
            except OSError as error:
                self.listener.warn(f"{checkpoint}: its scores cannot be written there ({error.strerror}); training goes on")
            self._write_card(checkpoint)
            prune(root, self.context.recipe.checkpoint.keep, best_checkpoint(root))  # what was the best may go now
        self.written.scores(step, metrics)
        if self.metric not in metrics:
            self.listener.warn(f"step {step}: the evaluation has no {self.metric}, so this cannot be the best checkpoint")
        if self.enough() and step < self.plan.steps:
            patience = self.context.recipe.training.patience
            self.listener.say(f"step {step}: no better {self.metric} in {patience} evaluations, so the run ends here")

    def _restore_best(self) -> None:
        """Record the best checkpoint again where the record or that checkpoint is lost: it must not be deleted as an old one."""
        root = self.context.folder.checkpoints
        if best_checkpoint(root) is not None:
            return
        whole = {step_of(path) for path in checkpoints(root)}
        for step, metrics in sorted(self.written.evaluations.items()):
            value = metrics.get(self.metric)
            if step in whole and value is not None:
                record_best(root, step, self.metric, value, self.metric in HIGHER)
        if best := read_best(root) if best_checkpoint(root) else None:
            self.listener.warn(
                f"{root}: no whole checkpoint was recorded as the best; by the evaluations so far it is that of step {best.step}"
            )

    def _best(self) -> dict[str, Any] | None:
        """The best checkpoint and what makes it that."""
        root = self.context.folder.checkpoints
        path, best = best_checkpoint(root), read_best(root)
        return {"checkpoint": str(path), "step": best.step, "metric": best.metric, "value": best.value} if path and best else None

    def _write_samples(self, step: int) -> None:
        from tfkit.generation.complete import complete

        settings, tokenizer = self.context.recipe.generation, self.data.tokenizer
        texts, rendered = self.data.objective.prompts(settings.prompts)
        with eager(self.model), self.weights.result_at_work():
            ends = self.data.end_ids
            completions = complete(
                self.model,
                tokenizer,
                texts,
                settings,
                eos_ids=ends,
                start_id=tokenizer.start_id,
                should_stop=self.should_stop,
                rendered=rendered,
            )
        if self.should_stop():  # some may be cut short; resuming writes them whole
            raise Stopped("stopped while the model was writing")
        pairs = zip(settings.prompts, completions, strict=True)
        said = [{"prompt": prompt, "completion": found.text} for prompt, found in pairs]
        self.written.samples(step, said, continues=not rendered and self.model.encoder is None)

    def _write_card(self, checkpoint: Path) -> None:
        """Anew, with the scores and the energy that are known by now: the card may change after the manifest."""
        try:
            write_atomically(checkpoint / "README.md", self._card())
        except OSError as error:
            self.listener.warn(f"{checkpoint}: its card cannot be written again ({error.strerror})")

    def _card(self) -> str:
        config = self.model.config
        family = family_of(config, prefer=self.family)
        return model_card(
            name=self.context.folder.path.name,
            kind=self.kind,
            config=config,
            architecture=family.architecture(config) if family else None,
            parameters=self.parameters,
            progress={"steps": self.progress.step, "tokens": self.progress.tokens, "loss": self.written.latest.get("loss")},
            evaluation=self.written.evaluations.get(self.progress.step, {}),
            data=[stored.name for stored, _ in self.data.train],
            averaged=f"exponential mean over the steps, decay {self.weights.ema_decay}" if self.weights.mean else "",
            reading=self.context.meter.reading(),
            base=adapted(self.context.recipe, self.data.start),
        )


def _saved_log(checkpoint: Path, state: dict[str, Any]) -> SavedLog | None:
    """What the training state keeps of the log; None in one of an older version. Raises ModelError for a state that no version wrote."""
    try:
        Progress.from_state(state["progress"])
        int(state["mean_steps"]), int(state["micro_batch_size"]), [[*state["data"][part]] for part in ("train", "validation")]
        return SavedLog.from_state(state["log"]) if "log" in state else None
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise ModelError(
            f"{checkpoint}: its training state is not one that this version reads ({error!r}); --from starts a new run from its weights"
        ) from error


def _check_same_data(saved: dict[str, list[str]], now: dict[str, list[str]]) -> None:
    for part in ("train", "validation"):
        if saved[part] != now[part]:
            raise DataError(
                f"the {part} text is not what this run was started with: its fingerprints were {', '.join(saved[part])} and are now "
                f"{', '.join(now[part])}. Restore the text and the tokenizer, or start another run with --run"
            )
