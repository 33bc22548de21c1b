"""The totals of a training, and the document of its result."""

from typing import Any, Literal

from tfkit.engine.checkpointing import Checkpointer
from tfkit.engine.results import MEASURED
from tfkit.engine.training_log import TrainingLog
from tfkit.engine.verdict import comparison_fields
from tfkit.evaluation.baselines import Baselines
from tfkit.run import strict_json
from tfkit.run.folder import RunFolder
from tfkit.training.loop import Progress


def step_totals(progress: Progress, flops_per_token: float, peak: float | None) -> dict[str, float]:
    """Return seconds, tokens and FLOPs of all steps, including those of earlier attempts.

    `train_flops` are those of the tokens by the architecture (training/flops.py); `hardware_flops_bound` is what the device could have
    computed in that time at its `peak` in FLOP/s: that of a GPU's data sheet, elsewhere as measured.
    """
    seconds = round(progress.seconds, 3)
    totals = {"train_seconds": seconds, "tokens": progress.tokens, "train_flops": progress.tokens * flops_per_token}
    return totals | ({"hardware_flops_bound": seconds * peak} if peak else {})


def training_result(
    status: Literal["finished", "stopped"],
    folder: RunFolder,
    progress: Progress,
    steps: int,
    log: TrainingLog,
    checkpointer: Checkpointer,
    baselines: Baselines,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Return the result of docs/cli.md; the totals must have been recorded. `steps`: the planned number; `facts`: further fields."""
    result: dict[str, Any] = {
        "schema_version": 1,
        "run": str(folder.path),
        "checkpoint": str(folder.checkpoints / f"step-{progress.step:06d}"),
        "status": status,
        "steps": progress.step,
        "tokens": progress.tokens,
        "loss": log.latest.get("loss"),
        "evaluation": log.evaluations.get(progress.step, {}),
        "before": log.before,
        "improvement": checkpointer.best.improvement(),
        "baselines": baselines,
        **comparison_fields(checkpointer.best.comparison(baselines)),
        **facts,
        "best": checkpointer.best.document(),
        "stopped_early": progress.step < steps,
        "stopped_by": None,
        "seconds": folder.totals["seconds"],
        "train_seconds": round(progress.seconds, 3),
        "tokens_per_second": round(progress.tokens / progress.seconds, 1) if progress.seconds else None,
        **{name: folder.totals.get(name) for name in MEASURED},
        **checkpointer.inherited.fields(),
        "gates": [],  # those of the command that asks for the result
    }
    document: dict[str, Any] = strict_json.loads(strict_json.dumps(result))  # as --resume will read it: a perplexity may be infinite
    return document
