"""Where a fine-tuning begins that nobody has tuned yet: for each kind of task what the paper of its kind did, in one table. Torch-free.

The largest rate is for the smallest models. What the papers leave open is ours: a tenth of the rows held out, an evaluation and a
checkpoint after each epoch, the best of them kept; and for T5 the batch and the epochs (the paper trains 2^18 steps of 128 sequences).
"""

from dataclasses import dataclass
from typing import Any

HELD_OUT = 0.1
_LATER_ADAM = {"kind": "adamw", "betas": [0.9, 0.999], "weight_decay": 0.01, "clip_norm": 1.0}
_ANY = 10**18


@dataclass(frozen=True)
class StartingPoint:
    """An optimizer without its rate; the rates, each with the most parameters of a model that it is for; a schedule and a length."""

    source: str
    optimizer: dict[str, Any]
    rates: tuple[tuple[int, float], ...]
    schedule: dict[str, Any]
    epochs: int
    batch_size: int

    def lr(self, parameters: int) -> float:
        """The peak learning rate for a model of this size."""
        return next(rate for most, rate in self.rates if parameters <= most)


BERT = StartingPoint(
    "BERT (arXiv 1810.04805, A.3: 2e-5, 3e-5 or 5e-5, 2 to 4 epochs, batch 32; 1e-4 for its small ones: arXiv 1908.08962)",
    _LATER_ADAM | {"eps": 1e-6},
    ((20_000_000, 1e-4), (60_000_000, 5e-5), (200_000_000, 3e-5), (_ANY, 2e-5)),
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
)


def starting_point(kind: str, stacks: str) -> StartingPoint:
    """For an objective and a model of an encoder, a decoder or both."""
    if kind == "chat":
        return SMOLLM2
    return {"encoder": BERT, "decoder": GPT, "both": T5}[stacks]
