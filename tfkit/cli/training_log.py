"""What a training says while it runs: metrics.jsonl, TensorBoard, and the live line; and what it said before it was resumed."""

from types import TracebackType
from typing import Any, Self

from tfkit import console
from tfkit.cli.session import energy_fields
from tfkit.cli.tensorboard import TensorBoard
from tfkit.cli.training_data import RunContext
from tfkit.run.metrics import MetricsLog, read_metrics
from tfkit.training.device import memory_bytes
from tfkit.training.loop import Log, Plan, Progress


class TrainingLog:
    """The log of one attempt, cut back to the step that it resumes after. As a context manager it holds the live line."""

    def __init__(self, context: RunContext, plan: Plan, progress: Progress, flops_per_token: float, peak: float | None):
        self.context, self.plan, self.progress = context, plan, progress
        self._flops_per_token, self._peak_flops = flops_per_token, peak
        self._metrics = MetricsLog(context.folder.metrics, console.warn)
        self._metrics.cut_back(progress.step)
        records = read_metrics(context.folder.metrics)
        self.latest: dict[str, Any] = next((record for record in reversed(records) if "loss" in record), {})
        self.evaluations = {record["step"]: record["evaluation"] for record in records if "evaluation" in record}
        self.sampled = {record["step"] for record in records if "samples" in record}
        wanted = context.recipe.training.tensorboard
        self._tensorboard = TensorBoard(context.folder.tensorboard, progress.step + 1, console.warn) if wanted else None

    def __enter__(self) -> Self:
        self._line = console.live()
        self._live = self._line.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._line.__exit__(kind, error, trace)
        if self._tensorboard is not None:
            self._tensorboard.close()

    @property
    def terminal(self) -> bool:
        """Whether there is a live line, to show every step."""
        return self._live.terminal

    def show(self, loss: float, lr: float, tokens_per_second: float) -> None:
        """The live line; elsewhere one more plain line."""
        reading, progress = self.context.meter.reading(), self.progress
        self._live.update(
            {
                "step": progress.step,
                "steps": self.plan.steps,
                "loss": loss,
                "lr": lr,
                "tokens_per_second": tokens_per_second,
                "eta_seconds": (self.plan.steps - progress.step) * progress.seconds / max(1, progress.step),
                "energy_wh": reading.energy_wh if reading.status != "off" else None,
                "emissions_g": reading.emissions_g if reading.status != "off" else None,
            }
        )

    def line(self, line: Log) -> None:
        """Append the line, and show it where there is no live line."""
        reading = self.context.meter.reading()
        energy, rate = energy_fields(reading), line.tokens_per_second
        several = {f"{term}_loss": loss for term, loss in line.terms.items()} if len(line.terms) > 1 else {}
        self.latest = {
            "step": line.step,
            "tokens": line.tokens,
            "loss": line.loss,
            **several,
            "lr": line.lr,
            "grad_norm": line.grad_norm,
            "tokens_per_second": round(rate, 1),
            "mfu": round(rate * self._flops_per_token / self._peak_flops, 4) if self._peak_flops else None,
            "memory": memory_bytes(self.context.device),
            "energy_wh": None if energy["energy_kwh"] is None else reading.energy_wh,
            "emissions_g": energy["emissions_g"],
        } | ({"skipped": line.skipped} if line.skipped else {})
        self._metrics.append(self.latest)
        if self._tensorboard is not None:
            self._tensorboard.add(line.step, {name: value for name, value in self.latest.items() if name != "step"})
        if not self.terminal:
            self.show(line.loss, line.lr, rate)

    def scores(self, step: int, metrics: dict[str, float]) -> None:
        """Append the scores of an evaluation, and show them."""
        self._metrics.append({"step": step, "evaluation": metrics})
        if self._tensorboard is not None:
            self._tensorboard.add(step, {f"evaluation/{name}": value for name, value in metrics.items()})
        console.say(f"step {step}: validation " + "  ".join(f"{name} {value:.4g}" for name, value in metrics.items()))

    def samples(self, step: int, pairs: list[dict[str, str]], continues: bool = True) -> None:
        """Append what the model wrote, and show it: behind the prompt, if it continues that, else as a text of its own."""
        self.sampled.add(step)
        self._metrics.append({"step": step, "samples": pairs})
        between = "" if continues else "\n"
        for pair in pairs:
            lines = (pair["prompt"] + between + pair["completion"]).splitlines()
            console.say(f"step {step} writes:\n" + "\n".join(f"    {line}" for line in lines))

    def sync(self) -> None:
        """Bring all lines to the disk: a power cut must not take those that a checkpoint counts on."""
        self._metrics.sync()

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()
