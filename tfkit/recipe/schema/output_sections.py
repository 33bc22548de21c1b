"""The sections of a recipe for the output of a run: its checkpoints, evaluations, generated texts and trackers."""

from typing import Annotated, Literal

from pydantic import Field

from tfkit.model.config import Data
from tfkit.recipe.schema.bounds import BatchSize, Beams, Count, NewTokens, Resamples, Tokens, Weight

Every = Count | Literal["epoch"] | None  # an interval in steps; epoch: one pass over the training rows; None: the whole run


class CheckpointSection(Data):
    """The interval at which the run is saved, and the number of checkpoints that are kept."""

    every: Every = Field(None, description="Steps between checkpoints, or epoch: after each epoch; null: only at the end.")
    keep: Count = Field(2, description="Number of newest checkpoints to keep; the best checkpoint is kept, too.")


TextMetric = Literal["exact_match", "bleu", "chrf", "rouge"]


class EvaluationSection(Data):
    """Settings of evaluation: when and how the held-out rows are scored."""

    every: Every = Field(None, description="Steps between evaluations, or epoch: after each epoch; null: only at the end.")
    metric: str | None = Field(
        None,
        description="The metric that chooses the best checkpoint, and that patience observes: one of the objective's; null: loss, or "
        "reward if responses are sampled.",
    )
    batch_size: BatchSize = Field(16, description="Rows per forward pass; for long texts, at most 16,384 tokens together.")
    max_tokens: Tokens | None = Field(
        None, description="Score only the first texts, with at most this many tokens together, but always the first text; null: all texts."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Arithmetic of tfkit evaluate. Evaluations during training use the working weights, in training.precision."
    )
    text_metrics: list[TextMetric] = Field(
        ["exact_match", "bleu", "chrf", "rouge"],
        description="Metrics by which tfkit evaluate compares generated texts with those of the rows. []: no texts are generated.",
    )
    bleu_tokenize: Literal["13a", "intl", "zh", "char", "none"] = Field(
        "13a", description="sacreBLEU's tokenizer of texts: 13a, intl (also splits at the punctuation of other scripts), zh, char, none."
    )
    bootstrap: Resamples | None = Field(
        1000, description="Number of bootstrap samples of the rows, from which tfkit evaluate computes 95 % intervals; null: no intervals."
    )


class GenerationSection(Data):
    """Settings of text generation."""

    prompts: list[str] = Field(
        [], description="Prompts that are continued at every evaluation during training, as samples of the model's texts."
    )
    max_new_tokens: NewTokens = Field(128, description="Largest number of tokens of a continuation.")
    temperature: Weight = Field(1.0, description="Divides the logits; 0: the most probable token is chosen (greedy).")
    top_k: Count | None = Field(None, description="Draw from the k likeliest tokens only; null: from all.")
    top_p: float = Field(1.0, gt=0, le=1, description="Draw from the likeliest tokens that together have this probability.")
    min_p: float = Field(0.0, ge=0, le=1, description="Draw from tokens with at least this fraction of the likeliest token's probability.")
    repetition_penalty: float = Field(1.0, ge=0.01, le=100, description="Above 1: tokens that the text already has become less likely.")
    no_repeat_ngram: Count | None = Field(None, description="No sequence of this many tokens occurs twice.")
    num_beams: Beams = Field(1, description="Texts that beam search keeps; 1: no beam search. Beam search ignores sampling settings.")
    length_penalty: float = Field(1.0, ge=-20, le=20, description="Beam search: above 0 favours long texts, below 0 short ones.")
    length_law: Literal["power", "gnmt"] = Field(
        "power",
        description="Beam search divides log-probabilities by length ^ length_penalty (power) or by ((5 + length) / 6) ^ length_penalty "
        "(gnmt, arXiv 1609.08144).",
    )
    early_stopping: Literal["full", "likely", "never"] = Field(
        "likely",
        description="When beam search ends after num_beams texts are finished. full: immediately; likely: if no better text is likely; "
        "never: if no better text is possible.",
    )
    stop: list[str] = Field([], description="End a continuation where one of these strings appears.")
    seed: int = Field(1, ge=0, lt=2**32, description="Seed of the draws.")


class TensorBoardSection(Data):
    """Event files of TensorBoard, in the run folder."""

    kind: Literal["tensorboard"] = Field(description="tensorboard: event files in the run folder; needs the extra tfkit[tensorboard].")


class ProjectTrackerSection(Data):
    """A tracker that gets a run of its own for each run of tfkit. The tracker's own settings and environment variables name its server."""

    kind: Literal["wandb", "mlflow", "trackio", "aim"] = Field(
        description="The tracker; needs the extra of the same name, such as tfkit[wandb]."
    )
    project: str = Field("tfkit", min_length=1, description="The project of the run; for mlflow and aim, the experiment.")


TrackerSection = Annotated[TensorBoardSection | ProjectTrackerSection, Field(discriminator="kind")]
