"""The sections of the objectives on text, pairs of texts and conversations, and for each metric whether lower values are better."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tfkit.model.config.sizes import MAX_LAYERS
from tfkit.recipe.schema.bounds import Positive, Weight
from tfkit.recipe.schema.objective_facts import Contradiction, ObjectiveSection, ScoredBy, Stacks, declared
from tfkit.recipe.schema.roles import Role
from tfkit.recipe.schema.vocabularies import vocabulary_of

if TYPE_CHECKING:
    from tfkit.recipe.schema.data_sections import TokenizerSection
    from tfkit.recipe.schema.sections import ModelSection, Recipe

Fraction = Annotated[float, Field(ge=0, le=1)]


# Column names of common public data sets, in order of preference. They count only if a row has none of a role's main names, `columns`.
_SOURCE_NAMES = (
    *("mr", "meaning_representation", "source_text", "src_text", "input_text", "documents", "original", "complex", "normal", "informal"),
    *("question", "nl", "english", "reviewtext", "maintext"),
)
_TARGET_NAMES = (
    *("ref", "reference", "human_reference", "target_text", "tgt_text", "output_text", "tldr", "abstract", "simplified", "simple"),
    *("formal", "paraphrase", "sql", "code", "french", "german", "spanish", "italian"),
)
_ANSWER_NAMES = ("assistant", "bot", "solution", "reply")

# The metrics of generated texts, each with the entry of evaluation.text_metrics that selects it.
TEXT_METRICS = {"exact_match": "exact_match", "bleu": "bleu", "chrf": "chrf", "rouge1": "rouge", "rouge2": "rouge", "rougeL": "rouge"}

# Metrics whose lower values are better, and metrics whose higher values are better.
LOWER = frozenset({"loss", "perplexity", "bits_per_byte", "rmse", "nll", "mlm_loss", "next_sentence_loss", "choices", "lm", "calibration"})
HIGHER = frozenset(
    {
        *("accuracy", "token_accuracy", "next_sentence_accuracy", "matthews", "pearson", "spearman"),
        *("precision", "recall", "f1", "f1_macro", "f1_micro", "margin", "reward", "gold"),
        *TEXT_METRICS,
    }
)


def best_value(metric: str) -> float:
    """Return the value that a model with perfect answers reaches in a metric that compares its answers with those of the rows."""
    return 100 if metric in ("bleu", "chrf") else 1 if metric in HIGHER else 0


def metrics_of_texts(section: ObjectiveSection) -> Mapping[str, str]:
    """Return the metrics that compare an objective's texts with those of the rows, in the form of TEXT_METRICS; empty if none do."""
    return TEXT_METRICS if section.answers_in_text else {}


def metrics_of(objective: ObjectiveSection) -> list[str]:
    """Return the metrics that can choose the best checkpoint: training metrics in LOWER or HIGHER, except those of generated texts."""
    section = objective.trained_for
    return [name for name in section.training_metrics if name in LOWER | HIGHER and name not in metrics_of_texts(section)]


@declared
class CausalLMSection(ObjectiveSection):
    """Predict the next token."""

    kind: Literal["causal_lm"] = "causal_lm"
    documents: Literal["apart", "joined"] = Field(
        "apart", description="apart: no token attends to another document in its row. joined: plain packing, as GPT-2 and GPT-3 did."
    )

    scored_by: ClassVar[ScoredBy] = "text"


@declared
class MaskedLMSection(ObjectiveSection):
    """Predict the masked tokens of a text from both sides (BERT, arXiv 1810.04805; DistilBERT without next-sentence prediction)."""

    kind: Literal["masked_lm"]
    rate: float = Field(0.15, gt=0, lt=1, description="Fraction of a row's tokens to predict, rounded; at least one.")
    split: tuple[Fraction, Fraction, Fraction] = Field(
        (0.8, 0.1, 0.1), description="Fractions of the tokens to predict that become [MASK], become a random token, and stay unchanged."
    )
    masking: Literal["dynamic", "static"] = Field(
        "dynamic",
        description="dynamic: the masked tokens are drawn anew in each epoch. static: they are the same in all epochs; a source of weight "
        "10 then gives BERT's ten copies of a text with different masks.",
    )
    whole_words: bool = Field(False, description="Mask all tokens of a word together, as in BERT's later models; needs WordPiece.")
    rarity: float = Field(
        0.0, ge=0, le=1, description="Mask rare tokens more often, in proportion to count ^ -rarity (DistilBERT 0.7); 0: all equally."
    )
    next_sentence: bool = Field(False, description="Rows are two texts; predict whether the second follows the first (BERT).")
    short_rows: float = Field(0.1, ge=0, le=1, description="With next_sentence: fraction of the rows that have a random shorter length.")

    stacks: ClassVar[tuple[Stacks, ...]] = ("encoder",)
    head: ClassVar[str] = "masked_lm"
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "accuracy", "mlm_loss", "next_sentence_loss", "next_sentence_accuracy")

    @model_validator(mode="after")
    def _fits(self) -> "MaskedLMSection":
        if abs(sum(self.split) - 1) > 1e-9:
            raise ValueError(f"split: the fractions sum to {sum(self.split):.3g}; change one, so that they sum to 1")
        if self.whole_words and self.rarity:
            raise ValueError("whole_words and rarity exclude each other, since rarity is of tokens, not of words: set only one of them")
        if not self.next_sentence and self.short_rows != MaskedLMSection.model_fields["short_rows"].default:
            raise ValueError("short_rows is read only with next_sentence: true: remove it")
        return self

    @property
    def training_metrics(self) -> tuple[str, ...]:
        """The metrics, without the separate ones of masked tokens and next sentences if next_sentence is false."""
        of_pairs = ("mlm_loss", "next_sentence_loss", "next_sentence_accuracy")
        return self.metrics if self.next_sentence else tuple(name for name in self.metrics if name not in of_pairs)

    def misfits(self, model: "ModelSection", values: dict[str, Any], tokenizer: "TokenizerSection") -> Iterator[Contradiction]:
        """Check that the tokenizer has [CLS], [SEP] and [MASK], that the head predicts the next sentence if and only if the objective does,
        and that a model that predicts the next sentence has segment embeddings.
        """
        head = values.get("head")
        roles = vocabulary_of(tokenizer.kind, tokenizer.variant).roles
        if tokenizer.path is None and not {"cls_token", "sep_token", "mask_token"} <= roles.keys():
            yield (
                ("tokenizer", "kind"),
                f"{tokenizer.kind} has no [CLS], [SEP] and [MASK], which the objective masked_lm needs: use wordpiece",
            )
        if "head" in model.changes and isinstance(head, dict) and bool(head.get("next_sentence")) != self.next_sentence:
            wanted = str(self.next_sentence).lower()
            yield (
                ("model", "head"),
                f"objective.next_sentence is {wanted}, but next_sentence of the head is not: make them equal, or leave the head out",
            )
        embedding = values.get("embedding")
        if self.next_sentence and ((embedding.get("segments") if isinstance(embedding, dict) else None) or 0) < 2:
            yield ("model",), "next_sentence needs segment embeddings, to distinguish its two texts: set model.embedding.segments to 2"


@declared
class SpanCorruptionSection(ObjectiveSection):
    """Generate the spans that were removed from a text (T5, arXiv 1910.10683, 3.1.4). All documents of a source are read as one text."""

    kind: Literal["span_corruption"]
    rate: float = Field(0.15, gt=0, le=0.9, description="Fraction of the tokens that are removed.")
    mean_span: float = Field(3.0, ge=1, le=1_000_000, description="Mean length of a removed span, in tokens.")
    masking: Literal["dynamic", "static"] = Field("dynamic", description="dynamic: different spans in each epoch. static: the same in all.")

    stacks: ClassVar[tuple[Stacks, ...]] = ("both",)
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "token_accuracy")


@declared
class TextToTextSection(ObjectiveSection):
    """Generate a target text from a source text: a translation, a summary, the answer of any task in words (2017 Transformer; T5)."""

    kind: Literal["text_to_text"]
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Fraction of a target's probability that is spread over the whole vocabulary; 0.1 in the 2017 paper."
    )

    roles: ClassVar[tuple[Role, ...]] = (
        # `input` is left out: rows with this column often have an `instruction`, too, which the model would not see.
        Role("source", "text", ("source", "src", "inputs", "document", "article", "dialogue", "text", "en"), later=_SOURCE_NAMES),
        Role("target", "references", ("target", "tgt", "targets", "summary", "highlights", "fr", "de"), later=_TARGET_NAMES),
    )
    stacks: ClassVar[tuple[Stacks, ...]] = ("both",)
    reads_text: ClassVar[bool] = False
    answers_in_text: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "token_accuracy", "nll", *TEXT_METRICS)

    @property
    def training_metrics(self) -> tuple[str, ...]:
        """The metrics, without `nll` (the loss without label smoothing) if labels are not smoothed."""
        return self.metrics if self.label_smoothing else tuple(name for name in self.metrics if name != "nll")


@declared
class ChatSection(ObjectiveSection):
    """Answer in a conversation: the loss is only on the assistant's text, and on the token that ends each of the assistant's turns.

    A row is a conversation (messages with role and content, or with from and value; with tools, also tool_calls and messages of the role
    tool), or an exchange (instruction, input, output). The formats are in tfkit/tokenizer/chat_formats.py; the checkpoint gets the
    format of the training as its chat template. If a finished tokenizer lacks special tokens of the format, they are added after its
    entries, and the model gets embeddings for them.
    """

    kind: Literal["chat"]
    format: Literal["auto", "template", "chatml", "llama2", "llama3", "gemma", "mistral", "chatml_tools"] = Field(
        "auto",
        description="The format of a conversation. template: the tokenizer's own chat template. chatml: SmolLM2. chatml_tools: chatml with "
        "tools and tool calls. auto: the tokenizer's own template, else the format whose special tokens the tokenizer has.",
    )
    system: str | None = Field(
        None, min_length=1, description="The system message of conversations that have none; null: that of the format, if it has one."
    )
    pack: bool = Field(False, description="Put several conversations into a row; no token attends to another conversation.")
    train_on: Literal["all", "last"] = Field(
        "all", description="all: the loss is on every answer of a conversation. last: only on its last answer."
    )

    roles: ClassVar[tuple[Role, ...]] = (
        Role("messages", "messages", ("messages", "conversations", "conversation"), shape="conversation"),
        Role("instruction", "text", ("instruction", "question", "prompt", "query"), shape="exchange", later=("user", "human", "problem")),
        Role("input", "text", ("input", "context"), required=False, shape="exchange"),
        Role("output", "references", ("output", "answer", "completion", "response"), shape="exchange", later=_ANSWER_NAMES),
        Role("system", "text", ("system", "system_prompt"), required=False),
        Role("tools", "tools", ("tools", "functions"), required=False, in_input=False, is_later=True),
    )
    reads_text: ClassVar[bool] = False
    answers_in_text: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "token_accuracy", *TEXT_METRICS)

    @property
    def judged_alone(self) -> Self:
        """The same objective with one conversation per row."""
        return self.model_copy(update={"pack": False})

    def problems(self, recipe: "Recipe", model: dict[str, Any]) -> Iterator[Contradiction]:
        """Yield a contradiction for each setting that would have no effect."""
        if self.pack and not recipe.data.length_groups:
            yield ("data", "length_groups"), "has no effect on packed rows, which have about equal lengths: remove it, or objective.pack"
        if self.system is not None and self.format == "template":
            yield ("objective", "system"), "the tokenizer's own chat template would ignore it: remove it, or name a format"
        elif self.system is not None and self.format in ("gemma", "mistral"):
            yield ("objective", "system"), f"the format {self.format} has no system message: remove it"


@declared
class DistillationSection(ObjectiveSection):
    """Learn from a larger model's whole distribution, on real text. DistilBERT (arXiv 1910.01108): temperature 2, weights 5
    (teacher), 2 (text) and 1 (cosine). Gemma 2 (arXiv 2408.00118): only the divergence from the teacher, at temperature 1.
    """

    kind: Literal["distillation"]
    teacher: str = Field(min_length=1, description="The model to learn from: a checkpoint, a run folder, or hub:org/name@revision.")
    teacher_sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="Required SHA-256 of its config and weights, which tfkit writes into the recipe of a run; null: any.",
    )
    of: Annotated[CausalLMSection | MaskedLMSection, Field(discriminator="kind")] = Field(
        description="The student's own objective, with its fields: {kind: causal_lm}, {kind: masked_lm, rate: 0.15}."
    )
    temperature: Positive = Field(1.0, description="Divides the logits of teacher and student, so that unlikely tokens count for more.")
    teacher_weight: Weight = Field(1.0, description="Weight of the divergence from the teacher's distribution; 0: none.")
    text_weight: Weight = Field(0.0, description="Weight of the loss on the text itself, that of the objective `of`; 0: none.")
    cosine_weight: Weight = Field(0.0, description="Weight of 1 - cosine between the last hidden states of teacher and student; 0: none.")
    masked_only: bool = Field(False, description="For masked_lm: the divergence at masked tokens only, not at all tokens.")
    copy_layers: list[Annotated[int, Field(ge=0, lt=MAX_LAYERS)]] | None = Field(
        None,
        min_length=1,
        description="For each layer of the student, the index (from 0) of the teacher's layer whose weights it starts with; all other "
        "weights are copied, too. null: random weights.",
    )

    companions: ClassVar[Mapping[str, bool]] = {"teacher": False}

    @property
    def trained_for(self) -> ObjectiveSection:
        """The student's own objective."""
        return self.of

    def problems(self, recipe: "Recipe", model: dict[str, Any]) -> Iterator[Contradiction]:
        """Check that the student learns from the teacher, with its tokenizer, that settings have an effect, and copy_layers is complete."""
        default = DistillationSection.model_fields
        if recipe.tokenizer.path is None and recipe.model.start is None:
            yield ("tokenizer",), "a student needs its teacher's tokenizer: set tokenizer.path to the value of objective.teacher"
        if not self.teacher_weight and not self.cosine_weight:
            yield ("objective",), "nothing is learned from the teacher: raise teacher_weight or cosine_weight, or train without it"
        if not self.teacher_weight and self.temperature != default["temperature"].default:
            yield ("objective", "temperature"), "only the divergence from the teacher reads it, but teacher_weight is 0; remove it"
        if self.masked_only and not (self.teacher_weight and self.of.kind == "masked_lm"):
            yield ("objective", "masked_only"), "only the divergence from the teacher of a masked_lm reads it; remove it"
        if self.copy_layers is not None and recipe.model.start is not None:
            yield ("objective", "copy_layers"), "the student begins with the weights of model.from already; remove one of the two"
        layers = (model.get("encoder_layers") or 0) + (model.get("decoder_layers") or 0)
        if self.copy_layers is not None and layers and len(self.copy_layers) != layers:
            yield ("objective", "copy_layers"), f"names {len(self.copy_layers)} layers for a student of {layers}: name one for each of them"
