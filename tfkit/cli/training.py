"""What every training command wires together: data, model, loop, checkpoints, and the run folder around them."""

import math
from pathlib import Path
from typing import Any

import torch

from tfkit import console
from tfkit.carbon import Reading
from tfkit.cli.session import energy_fields
from tfkit.cli.training_data import RunContext, TrainingData
from tfkit.data import Loader, PackedRows
from tfkit.errors import DataError, Stopped, UsageError
from tfkit.hub import load, save_model
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer
from tfkit.objectives.causal_lm import CausalLM
from tfkit.recipe.schema import Recipe
from tfkit.run import strict_json
from tfkit.run.card import model_card
from tfkit.run.checkpoints import best_checkpoint, free_space_for, newest_good, prune, record_best, save_checkpoint
from tfkit.run.metrics import MetricsLog, read_metrics
from tfkit.training.checkpoint import load_training_state, save_training_state
from tfkit.training.device import keep_freed_memory, make_deterministic, memory_bytes, peak_flops, pick_precision
from tfkit.training.flops import training_flops_per_token
from tfkit.training.loop import Log, Plan, Progress, train
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights
from tfkit.training.step import Stepper, StepReport

AUTO_MICRO_BATCH_TOKENS = 16_384


class TrainingRun:
    """One run of the loop with everything it needs; also the hooks that the loop calls."""

    def __init__(
        self, context: RunContext, data: TrainingData, model: Transformer, *, kind: str, family: str | None, exact: bool, force: bool
    ):
        self.context, self.data, self.model, self.kind, self.family = context, data, model, kind, family
        recipe, config = context.recipe, model.config
        for stream in (*(stream for stream, _ in data.train), *data.validation):
            stream.check_vocabulary(config.vocab_size)
        make_deterministic(context.device)
        keep_freed_memory()
        resumed_from = newest_good(context.folder.checkpoints, console.warn, exact)
        tensors, state = load_training_state(resumed_from) if resumed_from else ({}, {})
        if state:
            _check_same_data(state["data"], data.fingerprints())
        self.precision = pick_precision(recipe.training.precision, context.device)
        self.micro_batch_size = state.get("micro_batch_size") or recipe.training.micro_batch_size or auto_micro_batch(recipe, config)
        objective = CausalLM(recipe.objective.documents, data.tokenizer.eos_id)
        rows = PackedRows(data.train, config.context_length, recipe.training.seed)
        self.loader = Loader(rows, objective.collate, recipe.training.batch_size, self.micro_batch_size)
        self.plan = Plan(_total_steps(recipe, rows), recipe.training.log_every, recipe.evaluation.every, recipe.checkpoint.every)
        if not force:
            free_space_for(context.folder.checkpoints, _planned_bytes(recipe, model))
        model.to(context.device)
        self.weights = Weights(model, self.precision)
        self.optimizer = Optimizer(self.weights.master, recipe.optimizer)
        self.progress = Progress(**state.get("progress", {}))
        if resumed_from:
            self.weights.load(load(resumed_from).model.state_dict())
            self.optimizer.load_state(tensors)
        self.stepper = Stepper(model, objective, self.weights, self.optimizer, device=context.device, seed=recipe.training.seed)
        model.decoder.activation_checkpointing = recipe.training.activation_checkpointing
        if recipe.training.compile:
            model.decoder.compile()
        self.metrics = MetricsLog(context.folder.metrics, console.warn)
        self.metrics.cut_back(self.progress.step)
        records = read_metrics(context.folder.metrics)
        self.latest: dict[str, Any] = next((record for record in reversed(records) if "loss" in record), {})
        self.evaluations = {record["step"]: record["evaluation"] for record in records if "evaluation" in record}
        self.sampled = {record["step"] for record in records if "samples" in record}
        self.tensorboard = _tensorboard(context)
        self.resumed_from = resumed_from
        self.flops_per_token = training_flops_per_token(config, config.context_length)
        self.peak_flops = peak_flops(context.device, self.precision)

    def run(self) -> None:
        """Train to the end. Raises Stopped after saving, UnhealthyError before a bad update."""
        context = self.context
        context.folder.begin_attempt(self.resumed_from, self.progress.step)
        context.folder.record(
            threads=torch.get_num_threads(), device=str(context.device), precision=str(self.precision), data=self.data.fingerprints()
        )
        if self.resumed_from:
            console.say(f"resuming from {self.resumed_from.name}")
        context.meter.phase("train")
        with console.live() as self.live:
            try:
                train(self.stepper, self.loader, context.recipe.schedule, self.plan, self, self.progress)
            except Stopped:
                context.folder.end_attempt("stopped", step=self.progress.step)
                raise

    # ------------------------------------------------------------------------------------------ the hooks of the loop

    def stepped(self, progress: Progress, report: StepReport, seconds: float) -> None:
        """Show the step on a terminal's live line."""
        if self.live.terminal:
            self._show(report.loss, report.lr, report.tokens / seconds)

    def log(self, line: Log) -> None:
        """Append to metrics.jsonl, and show it where there is no live line."""
        reading = self.context.meter.reading()
        energy, rate = energy_fields(reading), line.tokens_per_second
        self.latest = {
            "step": line.step,
            "tokens": line.tokens,
            "loss": line.loss,
            "lr": line.lr,
            "grad_norm": line.grad_norm,
            "tokens_per_second": round(rate, 1),
            "mfu": round(rate * self.flops_per_token / self.peak_flops, 4) if self.peak_flops else None,
            "memory": memory_bytes(self.context.device),
            "energy_wh": None if energy["energy_kwh"] is None else reading.energy_wh,
            "emissions_g": energy["emissions_g"],
        }
        self.metrics.append(self.latest)
        self._to_tensorboard(line.step, {name: value for name, value in self.latest.items() if name != "step"})
        if not self.live.terminal:
            self._show(line.loss, line.lr, rate)
        if warning := self.context.meter.warning():
            console.warn(warning)

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
                "lineage": {"training": self.kind, "parents": []},
            }
            save_model(folder, self.model.config, dict(self.weights.master), self.data.tokenizer, family=self.family, facts=facts)
            (folder / "README.md").write_text(self._card(), encoding="utf-8")
            state = {"progress": progress.state(), "micro_batch_size": self.micro_batch_size, "data": self.data.fingerprints()}
            save_training_state(folder, self.optimizer.state(), state)

        self.metrics.sync()  # a power cut must not take lines that the checkpoint counts on

        def make_room() -> None:
            prune(root, 1, best_checkpoint(root))

        save_checkpoint(root, progress.step, write, make_room)
        prune(root, recipe.checkpoint.keep, best_checkpoint(root))
        context.meter.phase("train")

    def evaluate(self, progress: Progress) -> None:
        """Score the validation text, and let the model write: what of the two is not in metrics.jsonl yet. Raises Stopped."""
        self.context.meter.phase("evaluate")
        if self.data.validation and progress.step not in self.evaluations:
            self._note_scores(progress.step, self._score())
        if self.context.recipe.generation.prompts and progress.step not in self.sampled:
            self._write_samples(progress.step)
        self.context.meter.phase("train")

    def evaluated(self, step: int) -> bool:
        """Whether all of this step's evaluation stands in metrics.jsonl."""
        scored = step in self.evaluations or not self.data.validation
        return scored and (step in self.sampled or not self.context.recipe.generation.prompts)

    def stop_requested(self) -> int | None:
        """The signal that asks to stop."""
        return self.context.signals.requested

    # ------------------------------------------------------------------------------------------------------- the parts

    def finish(self, reading: Reading) -> dict[str, Any]:
        """Close the log and write the receipt of a finished run; the result of docs/cli.md."""
        self.metrics.close()
        if self.tensorboard is not None:
            self.tensorboard.close()
        progress, folder = self.progress, self.context.folder
        result: dict[str, Any] = {
            "schema_version": 1,
            "run": str(folder.path),
            "checkpoint": str(folder.checkpoints / f"step-{progress.step:06d}"),
            "steps": progress.step,
            "tokens": progress.tokens,
            "loss": self.latest.get("loss"),
            "evaluation": self.evaluations.get(progress.step, {}),
            "seconds": round(progress.seconds, 3),
            "tokens_per_second": round(progress.tokens / progress.seconds, 1) if progress.seconds else None,
            **energy_fields(reading),
        }
        result = strict_json.loads(strict_json.dumps(result))  # as --resume will read it back; a perplexity may be infinite
        totals = {name: result[name] for name in ("seconds", "tokens", "energy_kwh", "emissions_g")}
        folder.record(result=result, totals=totals)
        folder.end_attempt("finished", step=progress.step)
        return result

    def _score(self) -> dict[str, float]:
        from tfkit.evaluation.text import score_streams

        settings, signals = self.context.recipe.evaluation, self.context.signals
        scores = score_streams(
            self.model,
            self.data.validation,
            self.model.config.context_length,
            settings.batch_size,
            max_tokens=settings.max_tokens,
            should_stop=lambda: signals.requested is not None,
        )
        if scores is None:
            raise Stopped(signals.requested or 0, "stopped during the evaluation")
        return sum(scores[1:], start=scores[0]).metrics()

    def _note_scores(self, step: int, metrics: dict[str, float]) -> None:
        """The line of the log comes last: a run that is killed before it scores again, and all of this is done again."""
        self.evaluations[step] = metrics
        root = self.context.folder.checkpoints
        checkpoint = root / f"step-{step:06d}"
        if checkpoint.is_dir():
            try:
                record_best(root, step, "loss", metrics["loss"])
                (checkpoint / "README.md").write_text(self._card(), encoding="utf-8")  # the card may change after the manifest
            except OSError as error:
                console.warn(f"{checkpoint}: its scores cannot be written there ({error.strerror}); training goes on")
            prune(root, self.context.recipe.checkpoint.keep, best_checkpoint(root))  # what was the best may go now
        self.metrics.append({"step": step, "evaluation": metrics})
        self._to_tensorboard(step, {f"evaluation/{name}": value for name, value in metrics.items()})
        console.say(f"step {step}: validation " + "  ".join(f"{name} {value:.4g}" for name, value in metrics.items()))

    def _write_samples(self, step: int) -> None:
        from tfkit.generation.complete import complete

        settings, tokenizer = self.context.recipe.generation, self.data.tokenizer
        eos_ids = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        stop = lambda: self.context.signals.requested is not None  # noqa: E731
        completions = complete(self.model, tokenizer, settings.prompts, settings, eos_ids=eos_ids, should_stop=stop)
        if (number := self.context.signals.requested) is not None:  # some may be cut short; resuming writes them whole
            raise Stopped(number, "stopped while the model was writing")
        self.sampled.add(step)
        pairs = [{"prompt": prompt, "completion": found.text} for prompt, found in zip(settings.prompts, completions, strict=True)]
        self.metrics.append({"step": step, "samples": pairs})
        for pair in pairs:
            console.say(f"step {step} writes:\n" + "\n".join(f"    {line}" for line in (pair["prompt"] + pair["completion"]).splitlines()))

    def _show(self, loss: float, lr: float, rate: float) -> None:
        reading, progress = self.context.meter.reading(), self.progress
        left = (self.plan.steps - progress.step) * progress.seconds / max(1, progress.step)
        self.live.update(
            {
                "step": progress.step,
                "steps": self.plan.steps,
                "loss": loss,
                "lr": lr,
                "tokens_per_second": rate,
                "eta_seconds": left,
                "energy_wh": reading.energy_wh if reading.status != "off" else None,
                "emissions_g": reading.emissions_g if reading.status != "off" else None,
            }
        )

    def _card(self) -> str:
        reading: Reading = self.context.meter.reading()
        return model_card(
            name=self.context.folder.path.name,
            kind=self.kind,
            config=self.model.config,
            parameters=sum(parameter.numel() for parameter in self.weights.master.values()),
            progress={"steps": self.progress.step, "tokens": self.progress.tokens, "loss": self.latest.get("loss")},
            evaluation=self.evaluations.get(self.progress.step, {}),
            data=[stream.name for stream, _ in self.data.train],
            reading=reading,
        )

    def _to_tensorboard(self, step: int, values: dict[str, Any]) -> None:
        if self.tensorboard is None:
            return
        try:
            for name, value in values.items():
                if value is not None:
                    self.tensorboard.add_scalar(name, value, step)
        except Exception as error:  # a full disk, a bug of theirs: never a reason to stop training
            console.warn(f"TensorBoard files are no longer written: {error}")
            self.tensorboard = None


def auto_micro_batch(recipe: Recipe, config: ModelConfig) -> int:
    """The largest divisor of the batch size whose forward has at most 16,384 tokens: more is no faster, and takes memory."""
    rows = max(1, AUTO_MICRO_BATCH_TOKENS // config.context_length)
    return max(size for size in range(1, recipe.training.batch_size + 1) if recipe.training.batch_size % size == 0 and size <= rows)


def _total_steps(recipe: Recipe, rows: PackedRows) -> int:
    training = recipe.training
    if training.steps is not None:
        return training.steps
    if training.tokens is not None:
        return math.ceil(training.tokens / (training.batch_size * rows.length))
    assert training.epochs is not None
    return math.ceil(training.epochs * len(rows) / training.batch_size)


def _planned_bytes(recipe: Recipe, model: Transformer) -> int:
    """Disk for the checkpoints that are kept, one more that is being written, and the best: weights and optimizer state in fp32."""
    moments = 2 if recipe.optimizer.kind == "adamw" else 1
    return sum(parameter.numel() for parameter in model.parameters()) * 4 * (1 + moments) * (recipe.checkpoint.keep + 2)


def _check_same_data(saved: dict[str, list[str]], now: dict[str, list[str]]) -> None:
    for part in ("train", "validation"):
        if saved[part] != now[part]:
            raise DataError(
                f"the {part} text is not what this run was started with: its fingerprints were {', '.join(saved[part])} and are now "
                f"{', '.join(now[part])}. Restore the text and the tokenizer, or start another run with --run"
            )


def _tensorboard(context: RunContext) -> Any:
    if not context.recipe.training.tensorboard:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError("training.tensorboard needs the extra: pip install 'tfkit[tensorboard]'") from None
    return SummaryWriter(str(context.folder.tensorboard))
