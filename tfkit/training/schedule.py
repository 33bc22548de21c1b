"""Learning-rate schedules, as a factor of the peak: a pure function of the step."""

import math

from tfkit.recipe.schema import ScheduleSection


def lr_factor(schedule: ScheduleSection, step: int, total_steps: int) -> float:
    """The factor for step 1, 2, ..., total_steps: a linear rise over the warm-up, then the schedule's own shape down to final_ratio."""
    warmup = schedule.warmup_steps
    if step <= warmup:
        return step / warmup
    match schedule.kind:
        case "constant":
            return 1.0
        case "inverse_sqrt":  # arXiv 1706.03762, section 5.3, scaled so that its peak is 1
            return math.sqrt(max(warmup, 1) / step)
        case "linear":
            return _between(1.0 - _progress(step, warmup, total_steps), schedule.final_ratio)
        case "cosine":  # arXiv 1608.03983, one period
            return _between(0.5 * (1.0 + math.cos(math.pi * _progress(step, warmup, total_steps))), schedule.final_ratio)
        case "wsd":  # warm-up, stable, decay: arXiv 2404.06395; the decay is linear, as in SmolLM2
            begin = max(warmup, total_steps - round(schedule.decay_ratio * total_steps))
            return _between(1.0 - _progress(step, begin, total_steps), schedule.final_ratio) if step > begin else 1.0


def _progress(step: int, begin: int, end: int) -> float:
    """How far `step` is from begin (0) to end (1)."""
    return min(1.0, (step - begin) / max(1, end - begin))


def _between(share: float, low: float) -> float:
    return low + (1.0 - low) * share
