"""A program for test_memory.py: what 32 more rows of a micro-batch take at the peak, in bytes, measured in a fresh process.

python peak_of_a_step.py {gpt2|llama} {float32|bfloat16} {kept|checkpointing}
"""

import resource
import sys

import torch
from tiny_training import GPT2, LLAMA, config, stepper, stream

from tfkit.data import Loader, PackedRows
from tfkit.model.transformer import build
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.objective import Batch
from tfkit.training.step import Stepper

BIG = {"dim": 192, "context_length": 256, "decoder_layers": 3, "vocab_size": 1000, "hidden_dim": 768}


def made(family: str, dtype: str, checkpointing: bool) -> Stepper:
    """A model big enough for its activations to show."""
    values = {"gpt2": GPT2, "llama": LLAMA}[family]
    taking = stepper(build(config(values, **BIG), seed=1), dtype=getattr(torch, dtype))
    for stack in taking.model.stacks:
        stack.activation_checkpointing = checkpointing
    return taking


def batch(rows: int) -> Batch:
    packed = PackedRows([(stream(1000, documents=600), 1.0)], 256, seed=1)
    return Loader(packed, CausalLM().collate, rows, rows).step(0)[0]


def main() -> None:
    taking = made(sys.argv[1], sys.argv[2], sys.argv[3] == "checkpointing")
    peaks = []
    for rows in (16, 48):
        taking.try_out(1, batch(rows))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    print(peaks[1] - peaks[0])


if __name__ == "__main__":
    main()
