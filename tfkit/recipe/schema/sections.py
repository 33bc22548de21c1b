"""The recipe: every field that a user can set, in sections. `model` and `training` are here, the others in the modules beside this one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from tfkit.families.hub_models import preset_of
from tfkit.model.config import Data
from tfkit.recipe.schema import (  # noqa: F401  # importing these modules registers their objectives
    label_sections,
    preference_sections,
    question_answering_section,
    rollout_sections,
)
from tfkit.recipe.schema.bounds import BatchSize, Count, CountOrZero, Epochs, LearningRate, Positive, Rank, Tokens
from tfkit.recipe.schema.carbon_section import CarbonSection
from tfkit.recipe.schema.data_sections import DataSection, TokenizerSection
from tfkit.recipe.schema.objective_facts import ObjectiveSection, any_declared
from tfkit.recipe.schema.objective_sections import CausalLMSection
from tfkit.recipe.schema.optimizer_sections import AdamWSection, OptimizerSection, ParallelSection, ScheduleSection
from tfkit.recipe.schema.output_sections import CheckpointSection, EvaluationSection, GenerationSection, TrackerSection

START_FIELDS = ("from", "sha256")  # fields of the model section that are not fields of a model's config
# The fields that decide what an evaluation scores. Scores of runs that differ in such a field may not be comparable.
_LENGTH, _CONTEXT = "data.sequence_length", "model.context_length"
_OF_OBJECTIVES = (
    *("label_smoothing", "lm_weight", "beta", "train_on", "format", "system"),
    *("rate", "split", "mean_span", "whole_words", "rarity", "next_sentence", "short_rows"),
)
_SCORING_FIELDS = (_LENGTH, _CONTEXT, "evaluation.max_tokens", *(f"objective.{name}" for name in _OF_OBJECTIVES))


class ModelSection(Data):
    """A preset or a checkpoint with changes, or a full description: any field of a model's config is allowed here."""

    model_config = ConfigDict(extra="allow")

    preset: Annotated[str, AfterValidator(preset_of)] | None = Field(
        None, description="A published size to start from, such as gpt2 or llama2-7b, or its name on the Hub: bert-base-uncased."
    )

    @property
    def start(self) -> str | None:
        """The checkpoint that fine-tuning starts from, or None. Its key in a recipe is `from`, which is a reserved word in Python."""
        start = (self.model_extra or {}).get("from")
        return start if isinstance(start, str) else None

    @property
    def sha256(self) -> str | None:
        """The required SHA-256 of the checkpoint `start`, which tfkit writes into the recipe of a run; None: any."""
        sha256 = (self.model_extra or {}).get("sha256")
        return sha256 if isinstance(sha256, str) else None

    @property
    def changes(self) -> dict[str, Any]:
        """The values of a ModelConfig that the recipe states: changes to the preset or the checkpoint, or a full description."""
        return {name: value for name, value in (self.model_extra or {}).items() if name not in START_FIELDS}

    def pinned(self, sha256: str) -> "ModelSection":
        """Return the same section with `sha256` as the required hash of its checkpoint."""
        return ModelSection.model_validate({**self.model_dump(exclude_none=True), "sha256": sha256})


class BatchRampSection(Data):
    """A batch that grows linearly, by the tokens read so far, from a small one to the full one (GPT-3, arXiv 2005.14165, appendix B)."""

    start: BatchSize = Field(description="Sequences of the first step; every batch is a multiple of this, up to training.batch_size.")
    tokens: Tokens = Field(description="Training tokens until the batch is full; each row counts with the mean length of all rows.")


class LoraSection(Data):
    """Low-rank updates of frozen matrices (Hu et al. 2021, arXiv 2106.09685): W x + alpha / rank B A x, where only A and B are trained."""

    kind: Literal["lora"] = "lora"
    rank: Rank = Field(8, description="Number of rows of A and of columns of B.")
    alpha: Positive = Field(16.0, description="The update is multiplied by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the update's input, in training.")
    targets: list[Annotated[str, Field(min_length=1)]] = Field(
        ["q_proj", "v_proj"],
        min_length=1,
        description="The matrices of the stacks that get an update: the end of a module's name, or a glob over names "
        "(decoder.blocks.[0-3].*.o_proj).",
    )
    merge: bool = Field(
        False, description="Checkpoints are whole models, with the updates merged. false: they are adapter folders, which peft opens."
    )


LENGTHS = ("steps", "epochs", "tokens")  # the fields for the length of a training, exactly one of which is set


class TrainingSection(Data):
    """The length of the training, the size of its steps, and its arithmetic."""

    steps: Count | None = Field(None, description="Length in optimizer steps. Exactly one of steps, epochs, tokens.")
    epochs: Epochs | None = Field(None, description="Length in epochs, passes over the training rows.")
    tokens: Tokens | None = Field(None, description="Length in training tokens; rounded up to whole steps.")
    batch_size: BatchSize = Field(32, description="Sequences per step, over all ranks.")
    batch_ramp: BatchRampSection | None = Field(
        None, description="Smaller batches at first; the schedule's decay then follows tokens, not steps. null: full batches throughout."
    )
    micro_batch_size: BatchSize | None = Field(
        None,
        description="Sequences per forward pass; null: the largest divisor of batch_size within 16,384 tokens and, on a CPU, 4 GiB of "
        "memory.",
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="bf16: bf16 working weights and fp32 master weights. auto: bf16 if the hardware supports it, else fp32."
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Checkpoints hold, and evaluations use, an exponential moving average of the weights with this decay per step. "
        "null: the latest weights.",
    )
    trial_rates: list[LearningRate] | None = Field(
        None,
        min_length=1,
        description="Learning rates to try before the first step, besides optimizer.lr: each in a short training on a part of the training "
        "rows. A rate whose loss on the other rows is lower by at least 5 % replaces optimizer.lr. null: no trial.",
    )
    adapter: LoraSection | None = Field(
        None, description="Train small updates of the checkpoint's weights, and the head of the task, instead of all. null: all weights."
    )
    frozen: list[Annotated[str, Field(min_length=1)]] = Field(
        [], description="Parameters that are not trained: globs over their names, as `embedding.*` or `encoder.blocks.[0-3].*`."
    )
    unfreeze_every: Count | None = Field(
        None,
        description="Train the head first, then one block more, from the top, every n steps, and the embeddings last (ULMFiT, "
        "arXiv 1801.06146). null: all from the first step.",
    )
    patience: Count | None = Field(
        None, description="End the run after n evaluations without an improvement of evaluation.metric; null: train the whole length."
    )
    seed: int = Field(1, ge=0, lt=2**32, description="Seed of weights, order and dropout.")
    compile: bool = Field(False, description="torch.compile the model: 20 to 50 s of compilation, then faster steps.")
    activation_checkpointing: bool = Field(False, description="Recompute a block's activations in the backward pass, to save memory.")
    max_skipped_steps: CountOrZero = Field(
        0,
        description="Largest total number of steps that are skipped because their loss or gradient is not finite, or their loss jumps; one "
        "more such step ends the run (exit code 6).",
    )
    loss_jump_sigmas: Positive | None = Field(
        None, description="A loss that is this many standard deviations above the mean of the latest steps is a jump; null: none is."
    )
    log_every: Count = Field(10, description="Steps between lines of metrics.jsonl and of the plain log.")
    tensorboard: bool = Field(False, description="The same as trackers: [{kind: tensorboard}].")

    @model_validator(mode="after")
    def _one_length(self) -> "TrainingSection":
        given = [name for name in LENGTHS if getattr(self, name) is not None]
        if len(given) != 1:
            here = f"; here are {' and '.join(given)}: remove one, or set it to null" if given else ""
            raise ValueError(f"the length is exactly one of steps, epochs, tokens{here}")
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}: choose a divisor, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _ramp_fits(self) -> "TrainingSection":
        if self.batch_ramp is None:
            return self
        start = self.batch_ramp.start
        if start >= self.batch_size or self.batch_size % start:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of batch_ramp.start {start}, twice it or more: change one of them"
            )
        if self.micro_batch_size and start % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size {self.micro_batch_size} does not divide batch_ramp.start {start}: choose a divisor, or leave it out"
            )
        return self


if TYPE_CHECKING:
    DeclaredObjective = ObjectiveSection
else:
    DeclaredObjective = any_declared()


class Recipe(Data):
    """A run: its model, its data, its training, its outputs, and the measurement of its energy and emissions."""

    model: ModelSection
    tokenizer: TokenizerSection = TokenizerSection()
    data: DataSection
    objective: Annotated[DeclaredObjective, Field(discriminator="kind")] = CausalLMSection()
    optimizer: Annotated[OptimizerSection, Field(discriminator="kind")] = AdamWSection()
    schedule: ScheduleSection = ScheduleSection()
    training: TrainingSection
    parallel: ParallelSection = ParallelSection()
    checkpoint: CheckpointSection = CheckpointSection()
    evaluation: EvaluationSection = EvaluationSection()
    generation: GenerationSection = GenerationSection()
    trackers: list[TrackerSection] = Field([], description="Programs that also get the metrics that are written to metrics.jsonl.")
    carbon: CarbonSection = CarbonSection()

    def with_fields(self, fields: Mapping[str, Any]) -> "Recipe":
        """Return the recipe with the values in `fields`, by dotted name; a length of the training replaces the one in other units."""
        sections: dict[str, Any] = {}
        for field, value in fields.items():
            section, name = field.split(".")
            others = dict.fromkeys(LENGTHS) if name in LENGTHS else {}
            sections[section] = sections.get(section, getattr(self, section)).model_copy(update={**others, name: value})
        return self.model_copy(update=sections)

    def with_rate(self, lr: float) -> "Recipe":
        """Return the recipe with the learning rate `lr`, and without a trial of other rates."""
        return self.with_fields({"optimizer.lr": lr, "training.trial_rates": None})


def rebuild_recipe() -> None:
    """Rebuild Recipe and its JSON Schema with all objective sections that are registered before this call, also by other packages."""
    Recipe.model_fields["objective"].annotation = any_declared()
    Recipe.model_rebuild(force=True)


def scoring_fields(names: Iterable[str]) -> list[str]:
    """Return those of `names` that decide what an evaluation scores. A name is dotted, and may begin with a stage's name."""
    return [name for name in names if any(f".{name}".endswith(f".{field}") for field in _SCORING_FIELDS)]


def scoring_differences(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the fields that decide what an evaluation scores and that differ between the recipes. `recipes`: for each recipe the values of
    all its fields, by dotted name. The context length counts only if at least one recipe sets no data.sequence_length.
    """
    differing = [name for name in _SCORING_FIELDS if len({repr(recipe.get(name)) for recipe in recipes}) > 1]
    has_lengths = all(recipe.get(_LENGTH) is not None for recipe in recipes)
    return [name for name in differing if not (name == _CONTEXT and has_lengths)]
