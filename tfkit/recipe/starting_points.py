"""The defaults of fine-tuning before any tuning: the settings of the paper of each kind of task, or measured ones, in one table.
Torch-free.

The largest rate is for the smallest models. The rest is tfkit's choice: a tenth of the rows held out, an evaluation and a
checkpoint after each epoch, the best of them kept; for T5 the batch and the epochs (the paper trains 2^18 steps of 128 sequences); and
smaller batches and more epochs for few rows.
"""

import math
from dataclasses import dataclass
from typing import Any

HELD_OUT = 0.1
_LATER_ADAM = {"kind": "adamw", "betas": [0.9, 0.999], "weight_decay": 0.01, "clip_norm": 1.0}
_ANY = 10**18


# Fewer steps than these hardly change a model; a batch below the smallest is mostly noise, and slow.
_STEPS_AN_EPOCH, _STEPS, _SMALLEST_BATCH, _MOST_EPOCHS = 25, 50, 8, 10
_TEXT_TOKENS = 8192  # in a step on text
ENOUGH_ROWS, ENOUGH_CHARACTERS = 4000, 20_000_000  # more than these change no decision


@dataclass(frozen=True)
class StartingPoint:
    """An optimizer without its rate; the rates, each with the largest model that it is for; a schedule and a length."""

    source: str
    optimizer: dict[str, Any]
    rates: tuple[tuple[int, float], ...]
    schedule: dict[str, Any]
    epochs: int
    batch_size: int  # if there are enough rows
    scaled: bool = False  # whether the rates, which are for that batch, fall with the square root of a smaller one (arXiv 2205.10287)

    def lr(self, parameters: int, batch_size: int) -> float:
        """Return the peak learning rate for a model of this size."""
        rate = next(rate for most, rate in self.rates if parameters <= most)
        if not self.scaled or batch_size >= self.batch_size:
            return rate
        return float(f"{rate * math.sqrt(batch_size / self.batch_size):.2g}")

    def batch_for(self, rows: int, row_tokens: int | None = None) -> int:
        """Return the rows per step: halved until an epoch of `rows` has 25 steps, but at least 8. `row_tokens`: tokens of a row of text."""
        size = self.batch_size
        if row_tokens is not None:
            size = min(size, max(1, _TEXT_TOKENS // row_tokens))
        while size > _SMALLEST_BATCH and rows < _STEPS_AN_EPOCH * size:
            size //= 2
        return size

    def epochs_for(self, rows: int, batch_size: int) -> int:
        """Return the epochs: more if there would be fewer than 50 steps, but at most 10."""
        return max(self.epochs, min(_MOST_EPOCHS, math.ceil(_STEPS * batch_size / max(1, rows))))


BERT = StartingPoint(
    "BERT (arXiv 1810.04805, A.3: 2e-5, 3e-5 or 5e-5, 2 to 4 epochs, batch 32); up to 60 million parameters 3e-4, measured with MiniLM",
    _LATER_ADAM | {"eps": 1e-6},
    ((60_000_000, 3e-4), (200_000_000, 3e-5), (_ANY, 2e-5)),
    {"kind": "linear", "warmup_ratio": 0.1},  # run_classifier.py's warmup_proportion
    3,
    32,
)
GPT = StartingPoint(
    "GPT (Radford et al. 2018, 4.1: 6.25e-5, 3 epochs, batch 32, linear with 0.2 % of warm-up)",
    _LATER_ADAM,
    ((_ANY, 6.25e-5),),
    {"kind": "linear", "warmup_ratio": 0.002},
    3,
    32,
)
T5 = StartingPoint(
    "T5 (arXiv 1910.10683, 3.1.2: Adafactor at a constant 1e-3)",
    {"kind": "adafactor"},
    ((_ANY, 1e-3),),
    {"kind": "constant"},
    5,
    32,
)
SMOLLM2 = StartingPoint(
    "SmolLM2's supervised fine-tuning (arXiv 2502.02737: 3e-4, its small models 1e-3; 2 epochs, batch 128, cosine with 10 % of warm-up)",
    {"kind": "adamw"},
    ((1_000_000_000, 1e-3), (_ANY, 3e-4)),
    {"kind": "cosine", "warmup_ratio": 0.1},
    2,
    128,
    scaled=True,
)
TUNED = StartingPoint(
    "measured with SmolLM2-135M-Instruct, for models that have a chat template: 5e-5; beyond 10^9 parameters Stanford Alpaca's 2e-5",
    {"kind": "adamw"},
    ((1_000_000_000, 5e-5), (_ANY, 2e-5)),
    {"kind": "cosine", "warmup_ratio": 0.1},
    2,
    32,
)


def starting_point(kind: str, stacks: str, tuned: bool = False) -> StartingPoint:
    """Return the defaults for an objective and a model's stacks; `tuned`: it has a chat template, and all of it is trained."""
    if kind == "chat":
        return TUNED if tuned else SMOLLM2
    return {"encoder": BERT, "decoder": GPT, "both": T5}[stacks]
