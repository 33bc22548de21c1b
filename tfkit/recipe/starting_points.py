"""The default hyperparameters of fine-tuning: for each kind of task those of a paper, or measured ones.

Smaller models need larger learning rates: each kind of task has rates by model size, each with its source, a paper or a measurement, or a
note that it is extrapolated. Other defaults are tfkit's own choice: a tenth of the rows is held out, or up to 0.3 of few rows; checkpoints
are evaluated after each epoch, and the best is kept; few rows give smaller batches and more epochs. T5's batch and epochs are tfkit's, too:
its paper trains 2^18 steps of 128 sequences. docs/decisions.md compares the defaults with a grid search (benchmarks/decisions.py).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

DECISIONS = 10  # the version of these rules and those of tfkit/engine/recognition/decided_recipe.py: raise it with any change
# Usual and largest held-out fraction, and the number of held-out rows below which chance chooses the best checkpoint.
HELD_OUT, _MAX_HELD_OUT, _MIN_HELD_OUT_ROWS = 0.1, 0.3, 20
_LATER_ADAM = {"kind": "adamw", "betas": [0.9, 0.999], "weight_decay": 0.01, "clip_norm": 1.0}
_BILLION, _UNLIMITED = 10**9, 10**18
# The adapter that is trained if the memory is too small to train all weights.
LORA = {"rank": 16, "alpha": 32, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]}
# A batch below _MIN_BATCH has a noisy gradient, and is slow. A class is hardly learned from fewer than 30 examples
# (an example counts once in each epoch).
_STEPS_PER_EPOCH, _MIN_BATCH, _EXAMPLES_PER_CLASS = 25, 8, 30
# FLOPs of a step that takes a CPU about ten seconds, and the least and largest number of tokens of a step.
_STEP_FLOPS, _MIN_TOKENS, _MAX_TOKENS = 2e12, 1024, 8192
ENOUGH_ROWS, ENOUGH_CHARACTERS = 100_000, 20_000_000  # the counts at which counting ends, since larger ones change no decision
RARE = 0.1  # if all classes but the largest have a smaller fraction of the labels together, a model at first predicts only the largest
MANY_ROWS = 4000  # number of rows assumed for a streamed data set, because counting its rows would download it


def step_tokens(parameters: int) -> int:
    """Return the number of tokens of a step that takes a CPU about ten seconds, but at least 1,024 and at most 8,192."""
    return int(min(_MAX_TOKENS, max(_MIN_TOKENS, _STEP_FLOPS / (6 * parameters))))


def held_out_for(rows: int) -> float:
    """Return the fraction of labelled rows to hold out: a tenth; for fewer than 200 rows the fraction that gives 20 rows, but at most 0.3.

    If some classes are rare, `rows` is the number of their rows only: with few of these held out, chance would choose the best checkpoint.
    """
    return round(max(HELD_OUT, min(_MAX_HELD_OUT, _MIN_HELD_OUT_ROWS / max(1, rows))), 2)


def rates_beside(rate: float) -> list[float]:
    """Return the rates to try besides `rate`: a third of it, and three times it."""
    return [float(f"{rate * factor:.2g}") for factor in (1 / 3, 3)]


@dataclass(frozen=True)
class StartingPoint:
    """Default hyperparameters of fine-tuning for a kind of task."""

    source: str  # the paper or measurement that the values are taken from
    optimizer: dict[str, Any]
    rates: tuple[tuple[int, float, str], ...]  # the largest number of parameters for each learning rate, the rate, and its source
    schedule: dict[str, Any]
    epochs: int
    batch_size: int  # rows per step, if the data have enough rows
    steps: int = 50  # least number of steps, within `most_epochs`: fewer hardly change a model
    most_epochs: int = 10  # the most epochs to which `epochs_for` raises `epochs`
    scaled: bool = False  # whether the rate is lowered for a smaller batch, by the square root of the ratio (arXiv 2205.10287)

    def for_rare_classes(self) -> "StartingPoint":
        """Return the defaults for data with rare classes (see RARE), measured with MiniLM (docs/log.md): a fifth of the learning rate, half
        the batch, twice the epochs, and four times the least number of steps.
        """
        rates = tuple((most, float(f"{rate / 5:.2g}"), basis) for most, rate, basis in self.rates)
        return replace(self, rates=rates, epochs=2 * self.epochs, batch_size=self.batch_size // 2, steps=4 * self.steps)

    def lr(self, parameters: int, batch_size: int) -> float:
        """Return the peak learning rate for a model of `parameters` parameters; if `scaled`, lowered for a batch below the default one."""
        rate = next(rate for most, rate, _ in self.rates if parameters <= most)
        if not self.scaled or batch_size >= self.batch_size:
            return rate
        return float(f"{rate * math.sqrt(batch_size / self.batch_size):.2g}")

    def basis(self, parameters: int) -> str:
        """Return the source of the learning rate for a model of `parameters` parameters, as text for the user."""
        return next(basis for most, _, basis in self.rates if parameters <= most)

    def batch_for(self, rows: int, row_tokens: float, most_tokens: int, least: int | None = None) -> int:
        """Return the rows per step: the largest power of two whose rows, of `row_tokens` tokens, fit in `most_tokens`, but at least `least`
        (None: 8) and at most `batch_size`; then halved until an epoch of `rows` rows has 25 steps, or 8 rows per step are left.
        """
        smallest = least or _MIN_BATCH
        size = min(self.batch_size, max(smallest, 1 << (int(most_tokens / max(1, row_tokens)) or 1).bit_length() - 1))
        while size > _MIN_BATCH and rows < _STEPS_PER_EPOCH * size:
            size //= 2
        return size

    def epochs_for(self, rows: int, batch_size: int, classes: int = 0) -> int:
        """Return `epochs`, or the larger number that `steps` steps and 30 examples of each class need, but at most `most_epochs`."""
        examples = max(self.steps * batch_size, _EXAMPLES_PER_CLASS * classes)
        return max(self.epochs, min(self.most_epochs, math.ceil(examples / max(1, rows))))


BERT = StartingPoint(
    "BERT (arXiv 1810.04805, A.3: 2e-5 to 5e-5, 2 to 4 epochs, batch 32)",
    _LATER_ADAM | {"eps": 1e-6},
    (
        (10_000_000, 1e-3, "measured with a BERT of 1 million; extrapolated to other encoders"),
        (60_000_000, 5e-4, "measured with MiniLM, of 22 million; extrapolated to other encoders"),
        (200_000_000, 5e-5, "the largest of BERT's paper, for 110 million; extrapolated to other encoders"),
        (_UNLIMITED, 2e-5, "the smallest of BERT's paper, for 340 million; extrapolated to other encoders"),
    ),
    {"kind": "linear", "warmup_ratio": 0.1},  # warmup_proportion of BERT's run_classifier.py
    3,
    32,
    steps=150,
)
GPT = StartingPoint(
    "GPT (Radford et al. 2018, 4.1: 6.25e-5, 3 epochs, batch 32, linear)",
    _LATER_ADAM,
    (
        (10_000_000, 1e-3, "measured on text with a Llama of 4 million; extrapolated to other decoders"),
        (60_000_000, 3e-4, "extrapolated, between 1e-3 for 4 million and 6.25e-5 for 117 million"),
        (_BILLION, 6.25e-5, "GPT's paper, for 117 million; extrapolated to other decoders"),
        (_UNLIMITED, 2e-5, "extrapolated from Stanford Alpaca's, for 7 billion"),
    ),
    {"kind": "linear", "warmup_ratio": 0.1},
    3,
    32,
    steps=100,
)
T5 = StartingPoint(
    "T5 (arXiv 1910.10683, 3.1.2: Adafactor at a constant 1e-3)",
    {"kind": "adafactor"},
    ((_UNLIMITED, 1e-3, "T5's paper, for 60 million to 11 billion; extrapolated to other encoder-decoders"),),
    {"kind": "constant"},
    5,
    32,
    steps=150,
)
_SMALL_T5 = 20_000_000
SMALL_T5 = StartingPoint(
    "measured with a T5 of a million parameters (docs/decisions.md): Adafactor, linear, 8 epochs",
    {"kind": "adafactor"},
    ((_UNLIMITED, 1e-2, "measured with a T5 of 1 million; extrapolated to other encoder-decoders"),),
    {"kind": "linear", "warmup_ratio": 0.1},
    8,
    32,
    steps=100,
)
SMOLLM2 = StartingPoint(
    "SmolLM2's supervised fine-tuning (arXiv 2502.02737: 2 epochs, batch 128, cosine with 10 % of warm-up)",
    {"kind": "adamw"},
    (
        (_BILLION, 1e-3, "SmolLM2's paper, for 135 and 360 million at batch 128; extrapolated to other decoders"),
        (_UNLIMITED, 3e-4, "SmolLM2's paper, for 1.7 billion at batch 128; extrapolated to other decoders"),
    ),
    {"kind": "cosine", "warmup_ratio": 0.1},
    2,
    128,
    scaled=True,
)
TUNED = StartingPoint(
    "measured with SmolLM2-135M-Instruct, for models that have a chat template",
    {"kind": "adamw"},
    (
        (_BILLION, 5e-5, "measured with SmolLM2-135M-Instruct; extrapolated to other sizes"),
        (_UNLIMITED, 2e-5, "extrapolated from Stanford Alpaca's, for 7 billion"),
    ),
    {"kind": "cosine", "warmup_ratio": 0.1},
    2,
    32,
    most_epochs=4,
)

# Learning rates for an alpha of twice the rank; neither the rank nor the batch size changes them.
_LORA_RATES = (
    (10_000_000, 1e-3, "extrapolated from 5e-4, measured with SmolLM2-135M-Instruct"),
    (_BILLION, 5e-4, "measured with SmolLM2-135M-Instruct; extrapolated to other sizes"),
    (_UNLIMITED, 2e-4, "extrapolated from LoRA's paper, appendix D, for 175 billion"),
)
_LORA_SOURCE = "LoRA (arXiv 2106.09685), at ten times the rate of all weights, as Schulman 2025 (LoRA Without Regret) finds"


DPO = StartingPoint(
    "DPO (arXiv 2305.18290, appendix B: 1e-6, batch 64)",
    {"kind": "adamw", "weight_decay": 0.0},
    (
        (10_000_000, 3e-4, "measured with a small Llama (the recipe dpo-reviews); extrapolated to other decoders"),
        (_BILLION, 5e-6, "extrapolated, between 3e-4 for few million and 1e-6 for 2.8 billion"),
        (_UNLIMITED, 1e-6, "DPO's paper, for 2.8 billion; extrapolated to other decoders"),
    ),
    {"kind": "linear", "warmup_ratio": 0.1},
    1,
    32,
    most_epochs=2,
)


def starting_point(kind: str, stacks: str, parameters: int, tuned: bool = False, adapter: bool = False) -> StartingPoint:
    """Return the defaults. `tuned`: the model has a chat template; `adapter`: LoRA trains it; both matter to chat and causal_lm only."""
    if kind in ("dpo", "reward"):
        return DPO
    if kind in ("chat", "causal_lm"):
        whole = TUNED if tuned else SMOLLM2 if kind == "chat" else GPT
        return replace(whole, source=_LORA_SOURCE, rates=_LORA_RATES, scaled=False) if adapter else whole
    return {"encoder": BERT, "decoder": GPT, "both": SMALL_T5 if parameters <= _SMALL_T5 else T5}[stacks]
