"""The size of a pretraining on a user's own data: vocabulary, length of rows, batch and steps, computed from the amount of text.

Fields that the user sets are kept. The measurements behind the rules are in docs/log.md.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from tfkit.recipe.presets import model_config
from tfkit.recipe.schema.sections import LENGTHS, Recipe
from tfkit.recipe.starting_points import HELD_OUT, held_out_for

# The recipe of a pretraining if the user names no recipe. `scaled_to` adapts its fields that count steps to the length of the run.
SMALL_DECODER = """\
model:
  preset: gemma-2b
  decoder_layers: 4
  dim: 128
  hidden_dim: null
  num_heads: 2
  num_kv_heads: 1
  head_dim: 64
  context_length: 256
tokenizer: {kind: byte_bpe, vocab_size: 4096}
data: {train: [], validation: 0.1}
objective: {kind: causal_lm}
optimizer: {kind: muon, lr: 8e-3, adamw_lr: 2.4e-2}
schedule: {kind: linear, warmup_ratio: 0.05}
training: {steps: 1000, batch_size: 16}
checkpoint: {keep: 1}
generation: {prompts: [The], max_new_tokens: 96, temperature: 0.7}
"""
# A larger model is better only if it reads more tokens than it has parameters. Each entry has the smallest numbers of tokens to read and of
# characters of text for which its model is chosen, and the fields of the model.
_LARGER = (
    (60_000_000, 20_000_000, {"model.dim": 384, "model.num_heads": 6, "model.num_kv_heads": 2, "model.decoder_layers": 6}),
    (12_000_000, 5_000_000, {"model.dim": 256, "model.num_heads": 4, "model.num_kv_heads": 2}),
)
# The largest number of characters of text for each vocabulary size. A larger vocabulary would have entries that are too rare to be learned,
# and its output matrix takes most of a small model's time.
_VOCABULARIES = ((300_000, 1024), (3_000_000, 2048), (20_000_000, 4096))
_ROWS, _SHORTEST_ROW = 100, 64  # a text is cut into at least 100 rows, unless they would have fewer than 64 tokens
_STEPS_PER_EPOCH, _MIN_BATCH = 25, 8  # the batch is halved until an epoch has 25 steps, but not below 8 rows
_TOKENS_PER_MINUTE = 300_000  # approximate speed of the second model in _LARGER on two CPU cores
# After this many epochs the loss on held-out text hardly falls. With Muon, the optimizer of the small decoder, overfitting begins sooner.
_EPOCHS, _EPOCHS_OF_MUON = 10, 6
_MIN_STEPS = 10  # least number of steps, even for a text of a few words, so that there is a warm-up and a decay
# Held-out tokens of an evaluation: 20,000, or 3 % of the tokens that the training reads, if that is more. Ten evaluations of 3 % take a
# tenth of the run's time. A short run, in which 20,000 tokens are more than 3 %, has fewer evaluations.
_SCORED, _SCORED_SHARE = 20_000, 0.03
# The small decoder, or a run of more epochs than _ONCE, is evaluated and saved up to _EVALUATIONS times: an earlier state may be the best.
_ONCE, _EVALUATIONS = 2, 10
_IN_STEPS = ("checkpoint.every", "evaluation.every", "schedule.warmup_steps")


@dataclass(frozen=True)
class TextSize:
    """The number of rows and characters of the training data, without the held-out part."""

    rows: int
    characters: int
    is_counted: bool = True  # false: counting ended early, so there may be more text
    beginning: str = ""  # the first few words of the text


@dataclass
class Sizes:
    """The fields of a recipe that tfkit decides, by dotted name, and the reasons. Fields that the user sets are kept."""

    named: Collection[str]  # the user's changes to the recipe: dotted names of fields or sections
    is_written: bool  # whether a person wrote the recipe: a reason then states the value that a decision replaces
    fields: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def decide(self, name: str, value: Any, before: Any, because: str) -> Any:
        """Decide `value` for a field, in place of the recipe's value `before`, unless the user sets the field; return the field's value."""
        if value == before or is_named(name, self.named):
            return before
        self.fields[name] = value
        replaced = f" in place of {before}" if self.is_written and before is not None else ""
        self.reasons.append(f"{name}={value}{replaced}: {because}")
        return value

    def set(self, name: str, value: Any) -> None:
        """Decide `value` for a field without stating a reason, unless the user sets the field."""
        if not is_named(name, self.named):
            self.fields[name] = value


def is_named(path: str, named: Collection[str]) -> bool:
    """Whether the user's changes set the field `path`, or a section that contains it."""
    return any(path == name or path.startswith(f"{name}.") for name in named)


def scaled_to(recipe: Recipe, own: int | None, steps: int, named: Collection[str]) -> dict[str, Any]:
    """Return the fields that count steps in a recipe whose length is `own` steps, scaled to a run of `steps` steps.

    Where the warm-up of a noam schedule is scaled, the result also has an optimizer.lr with which the peak of the rate stays the same. The
    result is empty if `own` is None. Fields that the user sets, in `named`, are left out.
    """
    found: dict[str, Any] = {}
    if own is None:
        return found
    for path in _IN_STEPS:
        section, name = path.split(".")
        value = getattr(getattr(recipe, section), name)
        if type(value) is int and value and not is_named(path, named):
            found[path] = max(1, round(value * steps / own))
            if path == "schedule.warmup_steps" and recipe.schedule.kind == "noam" and not is_named("optimizer.lr", named):
                found["optimizer.lr"] = recipe.optimizer.lr * math.sqrt(found[path] / value)  # keeps the peak of the noam schedule
    return found


def decide_sizes(
    recipe: Recipe, own_steps: int | None, text: TextSize, named: Collection[str], minutes: float | None = None, *, grows: bool = False
) -> Sizes:
    """Decide the fields of a recipe that follow from the amount of text.

    `named`: the user's changes, which `recipe` includes; `own_steps`: training.steps of the recipe without these changes, None if its
    length is in epochs or tokens. `minutes`: the length of the training as a time, which a forecast later turns into steps; None if it is
    in another unit. `grows`: the recipe is that of the small decoder, so the size of the model is chosen, too.
    """
    sizes = Sizes(named, not grows)
    length, batch, epoch = _decide_rows(sizes, recipe, text)
    steps = _decide_length(sizes, recipe, batch, length, epoch, minutes)
    read = round(steps * batch * length)
    if grows:
        for name, value in next((model for least, most, model in _LARGER if read >= least and text.characters >= most), {}).items():
            sizes.decide(name, value, None, f"for about {read:,} tokens to read")
    if minutes is None:
        sizes.fields |= scaled_to(recipe, own_steps, steps, named)
    share, held_out = _SCORED_SHARE * read, HELD_OUT * epoch * batch * length
    scored = max(_SCORED, int(float(f"{share:.1g}")))
    if recipe.evaluation.max_tokens is None and held_out > scored:
        sizes.decide("evaluation.max_tokens", scored, None, f"of about {held_out:,.0f} held-out tokens; tfkit evaluate scores all")
    if (planned := steps if minutes is None else own_steps) is not None and (grows or steps > _ONCE * epoch):
        evaluations = max(1, min(_EVALUATIONS, int(_EVALUATIONS * share / min(_SCORED, held_out))))
        for name in ("checkpoint.every", *(["evaluation.every"] if recipe.data.validation is not None else [])):
            sizes.set(name, math.ceil(planned / evaluations))
    if recipe.generation.prompts and text.beginning:
        sizes.set("generation.prompts", [text.beginning])
    if not recipe.objective.reads_text:
        sizes.set("data.validation", held_out_for(text.rows))
    return sizes


def _decide_rows(sizes: Sizes, recipe: Recipe, text: TextSize) -> tuple[float, int, float]:
    """Decide the vocabulary, the length of rows and the batch; return the tokens of a row, the rows of a step, the steps of an epoch."""
    training, vocabulary = recipe.training, recipe.tokenizer.vocab_size
    if recipe.tokenizer.path is None:
        fitting = next((size for most, size in _VOCABULARIES if text.characters <= most), vocabulary)
        amount = f"{'' if text.is_counted else 'at least '}{text.characters:,} characters"
        vocabulary = sizes.decide("tokenizer.vocab_size", min(fitting, vocabulary), vocabulary, f"for {amount} to train on")
    # The divisor is the number of characters per token, as measured on English text: 2.5 with 1,024 entries, 3.7 with 8,192.
    tokens = text.characters / max(1.0, 0.4 * math.log2(vocabulary) - 1.5)
    rows, length = text.rows, tokens / max(1, text.rows)
    if recipe.objective.reads_text:
        context = model_config(recipe.model, vocabulary).context_length
        length = recipe.data.sequence_length or context
        if recipe.data.sequence_length is None:
            shorter = context
            while shorter >= 2 * _SHORTEST_ROW and tokens < _ROWS * shorter:
                shorter //= 2
            length = sizes.decide("model.context_length", shorter, context, f"for {_ROWS} rows of the text, or almost")
        rows = math.ceil(tokens / length)
    batch, micro_batch = training.batch_size, 1
    if training.micro_batch_size is not None and is_named("training.micro_batch_size", sizes.named):
        micro_batch = training.micro_batch_size
    while batch >= 2 * _MIN_BATCH and rows < _STEPS_PER_EPOCH * batch and training.batch_ramp is None and batch // 2 % micro_batch == 0:
        batch //= 2
    because = f"for at least {_STEPS_PER_EPOCH} steps an epoch, or almost"
    batch = sizes.decide("training.batch_size", batch, training.batch_size, because)
    if batch != training.batch_size and training.micro_batch_size is not None:
        sizes.set("training.micro_batch_size", None)
    return length, batch, rows / batch


def _decide_length(sizes: Sizes, recipe: Recipe, batch: int, length: float, epoch: float, minutes: float | None) -> int:
    """Decide the length of the training, and return it in steps.

    If the user gives no length, the run reads as many rows as with the recipe's own length, but in at most 10 epochs (6 with Muon) or, if
    that is more, 10 steps: after so many epochs the held-out loss hardly falls any more.
    """
    training = recipe.training
    if minutes is not None:
        return math.ceil(minutes * _TOKENS_PER_MINUTE / (batch * length))
    if training.epochs is not None:
        return math.ceil(training.epochs * epoch)
    own = training.steps or math.ceil((training.tokens or 0) / (training.batch_size * length))
    if any(is_named(f"training.{name}", sizes.named) for name in LENGTHS):
        return own
    epochs = _EPOCHS_OF_MUON if recipe.optimizer.kind == "muon" else _EPOCHS
    whole, longest = math.ceil(own * training.batch_size / batch), math.ceil(epochs * epoch)
    another = "; --tokens N or --minutes N sets another length"
    if not sizes.is_written and _MIN_STEPS <= longest <= whole:  # in epochs, because the number of tokens in the text is only estimated
        sizes.decide("training.epochs", epochs, None, f"of which the best is kept{another}")
        sizes.fields["training.steps"] = None
        return longest
    steps = min(whole, max(_MIN_STEPS, longest))
    if whole < max(_MIN_STEPS, longest):
        own_rows = "as many rows as the recipe reads" if sizes.is_written else "the most that a small decoder reads by default"
        because = f"about {steps / epoch:.2g} epochs, {own_rows}"
    elif longest < _MIN_STEPS:
        because = f"the fewest that teach something, about {steps / epoch:.2g} epochs, of which the best is kept"
    else:
        because = f"about {epochs} epochs, of which the best is kept"
    because += another
    name = "training.steps" if training.tokens is None else "training.tokens"
    value, before = (steps, training.steps) if training.tokens is None else (round(steps * batch * length), training.tokens)
    if sizes.decide(name, value, before, because) == before:
        sizes.reasons.append(f"{name}={before}: {because}")
    return steps
