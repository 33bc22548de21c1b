"""The sections of a recipe on the output of a run: its checkpoints, evaluations, generated texts and trackers."""

from typing import Annotated, Literal

from pydantic import Field

from tfkit.model.config import Data
from tfkit.recipe.schema.bounds import BatchSize, Beams, Count, NewTokens, Resamples, Tokens, Weight

Every = Count | Literal["epoch"] | None  # epoch: the steps of one pass over the training rows


class CheckpointSection(Data):
    """The steps at which the run is saved, and the checkpoints that are kept."""

    every: Every = Field(None, description="Steps between checkpoints, or epoch; null: only at the end.")
    keep: Count = Field(2, description="How many of the newest checkpoints to keep; the best one is kept, too.")


TextMetric = Literal["exact_match", "bleu", "chrf", "rouge"]


class EvaluationSection(Data):
    """Settings of evaluation: when and how the validation text is scored."""

    every: Every = Field(None, description="Steps between evaluations, or epoch; null: only at the end.")
    metric: str | None = Field(
        None,
        description="The metric of the best checkpoint and of patience: one of the objective's; null: loss, or reward if responses are "
        "sampled.",
    )
    batch_size: BatchSize = Field(16, description="Rows per forward pass; for long texts, at most 16,384 tokens together.")
    max_tokens: Tokens | None = Field(
        None, description="Score only the first texts, with at most this many tokens, but always the first one; null: every byte."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Arithmetic of tfkit evaluate; training uses its working weights."
    )
    text_metrics: list[TextMetric] = Field(
        ["exact_match", "bleu", "chrf", "rouge"],
        description="Metrics by which tfkit evaluate compares generated texts with those of the rows. []: no texts are generated.",
    )
    bleu_tokenize: Literal["13a", "intl", "zh", "char", "none"] = Field(
        "13a", description="sacreBLEU's tokenizer of texts: 13a, intl (also splits at the punctuation of other scripts), zh, char, none."
    )
    bootstrap: Resamples | None = Field(
        1000, description="Bootstrap samples of the rows from which tfkit evaluate computes 95 % intervals; null: none."
    )


class GenerationSection(Data):
    """Settings of text generation."""

    prompts: list[str] = Field(
        [], description="Prompts that are continued at every evaluation during training, as samples of the model's texts."
    )
    max_new_tokens: NewTokens = Field(128, description="The longest continuation.")
    temperature: Weight = Field(1.0, description="Divides the logits; 0 is greedy.")
    top_k: Count | None = Field(None, description="Draw from the k likeliest tokens only; null: from all.")
    top_p: float = Field(1.0, gt=0, le=1, description="Draw from the likeliest tokens that hold this much of the probability.")
    min_p: float = Field(0.0, ge=0, le=1, description="Draw from tokens with at least this fraction of the likeliest one's probability.")
    repetition_penalty: float = Field(1.0, ge=0.01, le=100, description="Above 1: tokens that the text already has become less likely.")
    no_repeat_ngram: Count | None = Field(None, description="No sequence of this many tokens occurs twice.")
    num_beams: Beams = Field(1, description="Texts that beam search keeps; 1: no beam search. It ignores the settings of sampling.")
    length_penalty: float = Field(1.0, ge=-20, le=20, description="Beam search: above 0 favours long texts, below 0 short ones.")
    length_law: Literal["power", "gnmt"] = Field(
        "power",
        description="Beam search divides log-probabilities by length ^ length_penalty, or ((5 + length) / 6) ^ it (arXiv 1609.08144).",
    )
    early_stopping: Literal["full", "likely", "never"] = Field(
        "likely",
        description="When beam search ends after num_beams finished texts. full: at once; likely: if no better text is likely; never: if "
        "none is possible.",
    )
    stop: list[str] = Field([], description="End a continuation where one of these strings appears.")
    seed: int = Field(1, ge=0, lt=2**32, description="Seed of the draws.")


class TensorBoardSection(Data):
    """Curves for TensorBoard, in the run folder."""

    kind: Literal["tensorboard"] = Field(description="tensorboard: event files in the run folder; needs the extra tfkit[tensorboard].")


class ProjectTrackerSection(Data):
    """A run in a project of another program. Its own settings and environment variables say where that is."""

    kind: Literal["wandb", "mlflow", "trackio", "aim"] = Field(
        description="The program, which has a run for this one; needs the extra of the same name, such as tfkit[wandb]."
    )
    project: str = Field("tfkit", min_length=1, description="The project of the run; for mlflow and aim their experiment.")


TrackerSection = Annotated[TensorBoardSection | ProjectTrackerSection, Field(discriminator="kind")]
