"""A program for test_memory.py: the peak memory of 32 more rows of a micro-batch, in bytes, measured in a fresh process.

python peak_of_a_step.py {gpt2|llama|dropping|t5|2017} {float32|bfloat16} {kept|checkpointing}
python peak_of_a_step.py {taught|capped}: a student; `capped`: its teacher's scores are, for which there is no fused kernel
"""

import sys
from pathlib import Path

import torch
from tiny_training import GPT2, LLAMA, config, stepper, stream

from tfkit.data import Loader, PackedRows
from tfkit.data.order.spans import SpanLengths
from tfkit.families import PRESETS
from tfkit.model.transformer import build
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.companion import Companion
from tfkit.objectives.distillation import Distillation
from tfkit.objectives.objective import Batch, Objective
from tfkit.objectives.span_corruption import SpanCorruption
from tfkit.recipe.presets import merge
from tfkit.recipe.schema.objective_sections import DistillationSection
from tfkit.training.step import Stepper

BIG = {"dim": 192, "context_length": 256, "decoder_layers": 3, "vocab_size": 1000, "hidden_dim": 768}
PAIRED = BIG | {"encoder_layers": 2, "num_heads": 6, "head_dim": 32}
MODELS = {
    "gpt2": GPT2 | BIG,
    "llama": LLAMA | BIG,
    "dropping": GPT2 | BIG | {"dropout": {"attention": 0.1}},
    "t5": merge(PRESETS["t5-small"][1], PAIRED),  # with attention dropout, and a bias that has a gradient: no fused kernel
    "2017": merge(PRESETS["transformer-2017-base"][1], PAIRED),
}


def made(family: str, dtype: str, checkpointing: bool) -> Stepper:
    """Build a stepper whose model is large enough for its activations to show."""
    taking = stepper(build(config(MODELS[family]), seed=1), dtype=getattr(torch, dtype), objective=objective(family))
    for stack in taking.model.stacks:
        stack.activation_checkpointing = checkpointing
    return taking


def made_taught(kind: str) -> Stepper:
    """Build a stepper for a student of one layer and a teacher four times as wide."""
    wide = BIG | {"dim": 768, "hidden_dim": 3072, "num_heads": 12, "decoder_layers": 2}
    attention = {"softcap": 30.0} if kind == "capped" else {}
    teacher = build(config(GPT2, **wide, attention=attention), seed=2).eval().requires_grad_(False)
    section = DistillationSection.model_validate({"kind": "distillation", "teacher": "made", "of": {"kind": "causal_lm"}})
    objective = Distillation(section, CausalLM(), Companion("teacher", teacher, "made", "0" * 64))
    return stepper(build(config(GPT2, **BIG | {"decoder_layers": 1}), seed=1), objective=objective)


def objective(family: str) -> Objective:
    return SpanCorruption(SpanLengths(100, 15, 5), [], 1, 0) if family in ("t5", "2017") else CausalLM()


def batch(family: str, rows: int) -> Batch:
    """Return packed rows; for an encoder-decoder sources of 256 tokens and targets of 160, of which the last ones are padding."""
    if family not in ("t5", "2017"):
        packed = PackedRows([(stream(1000, documents=600), 1.0)], 256, seed=1)
        return Loader(packed, CausalLM().collate, rows, rows).step(0)[0]
    source, target = torch.randint(1000, (rows, 256)), torch.randint(1000, (rows, 160))
    masks = [(torch.arange(length) < length - 9).repeat(rows, 1) for length in (256, 160)]
    return Batch(source, target, padding_mask=masks[0], decoder_input_ids=target, decoder_padding_mask=masks[1])


def peak() -> int:
    """Return the peak memory of this process. Linux only; `ru_maxrss` would begin with the parent's."""
    lines = (line.split() for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    return next(int(words[1]) * 1024 for words in lines if words[0] == "VmHWM:")


def main() -> None:
    kind, *how = sys.argv[1:]
    taking = made(kind, how[0], how[1] == "checkpointing") if how else made_taught(kind)
    peaks = []
    for rows in (1, 16, 48):  # the first: the allocator's one-time work
        taking.try_out(1, batch(kind, rows))
        peaks.append(peak())
    print(peaks[2] - peaks[1])


if __name__ == "__main__":
    main()
