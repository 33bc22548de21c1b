"""A program for test_memory_of_a_teacher.py: the peak memory of 32 more rows of a student's micro-batch, in bytes, in a fresh process.

python peak_of_a_taught_step.py {plain|capped}: whether the teacher's scores are capped, for which there is no fused kernel.
"""

import sys

from peak_of_a_step import BIG, batch, peak
from tiny_training import GPT2, config, stepper

from tfkit.model.transformer import build
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.companion import Companion
from tfkit.objectives.distillation import Distillation
from tfkit.recipe.schema.objective_sections import DistillationSection
from tfkit.training.step import Stepper


def made(kind: str) -> Stepper:
    """Build a stepper for a student of one layer and a teacher four times as wide."""
    wide = BIG | {"dim": 768, "hidden_dim": 3072, "num_heads": 12, "decoder_layers": 2}
    attention = {"softcap": 30.0} if kind == "capped" else {}
    teacher = build(config(GPT2, **wide, attention=attention), seed=2).eval().requires_grad_(False)
    section = DistillationSection.model_validate({"kind": "distillation", "teacher": "made", "of": {"kind": "causal_lm"}})
    objective = Distillation(section, CausalLM(), Companion("teacher", teacher, "made", "0" * 64))
    return stepper(build(config(GPT2, **BIG | {"decoder_layers": 1}), seed=1), objective=objective)  # type: ignore[arg-type]


def main() -> None:
    taking = made(sys.argv[1])
    peaks = []
    for rows in (16, 48):
        taking.try_out(1, batch("gpt2", rows))
        peaks.append(peak())
    print(peaks[1] - peaks[0])


if __name__ == "__main__":
    main()
