"""The objectives of a recipe, one section each: its fields, and the facts of its kind that need no model. Torch-free."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tfkit.model.config import MAX_LAYERS
from tfkit.recipe.schema.bounds import Positive, Shots, Weight
from tfkit.recipe.schema.objective_facts import Contradiction, ObjectiveSection, ScoredBy, Stacks, declared
from tfkit.recipe.schema.roles import Role
from tfkit.recipe.schema.vocabularies import VOCABULARIES, variant_of

if TYPE_CHECKING:
    from tfkit.recipe.schema.data_sections import TokenizerSection
    from tfkit.recipe.schema.sections import ModelSection, Recipe

Fraction = Annotated[float, Field(ge=0, le=1)]


def _all_different(labels: list[str]) -> list[str]:
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"{', '.join(map(repr, twice))} is given twice: remove one")
    return labels


Labels = Annotated[list[str], AfterValidator(_all_different)]


# Further names of columns, of frequent public data sets, in the order in which they are looked for.
_TEXT_NAMES = (
    *("sentence_a", "sentence_1", "text_a", "text_1", "text1", "sent1", "string1", "review", "review_text", "reviewtext", "review_body"),
    *("tweet", "tweet_text", "comment", "comment_text", "message", "sms", "utterance", "query", "phrase", "headline", "post", "content"),
    *("full_text", "clean_text", "body", "statement", "claim", "passage", "document", "article", "abstract", "description", "title", "v2"),
)
_PAIR_NAMES = ("sentence_b", "sentence_2", "text_b", "text_2", "text2", "sent2", "string2")
_LABEL_NAMES = (
    *("sentiment", "sentiment_label", "airline_sentiment", "polarity", "rating", "star_rating", "stars", "overall", "emotion", "topic"),
    *(
        "target",
        "class_label",
        "class_index",
        "class_name",
        "label_text",
        "category_name",
        "intent_name",
        "is_spam",
        "spam",
        "toxic",
        "hate_speech",
    ),
    *("is_duplicate", "similarity", "similarity_score", "relatedness_score", "entailment_judgment", "entailment_label", "stance", "v1"),
)
_TAG_NAMES = ("tag", "ner_labels", "entity_tags", "iob", "bio", "pos_labels", "pos_tag", "ner_tag", "xpos", "chunk_tags")
_SOURCE_NAMES = (
    *("mr", "meaning_representation", "source_text", "src_text", "input_text", "documents", "original", "complex", "normal", "informal"),
    *("question", "nl", "english", "reviewtext", "maintext"),
)
_TARGET_NAMES = (
    *("ref", "reference", "human_reference", "target_text", "tgt_text", "output_text", "tldr", "abstract", "simplified", "simple"),
    *("formal", "paraphrase", "sql", "code", "french", "german", "spanish", "italian"),
)
_ANSWER_NAMES = ("assistant", "bot", "solution", "reply")

_OF_CLASSES = ("accuracy", "f1_macro", "f1_micro", "matthews", "majority")
OF_TEXTS = {  # the metrics of generated texts, and the entry of evaluation.text_metrics that gives each
    "exact_match": "exact_match",
    "bleu": "bleu",
    "chrf": "chrf",
    "rouge1": "rouge",
    "rouge2": "rouge",
    "rougeL": "rouge",
}


def metrics_of_texts(section: ObjectiveSection) -> Mapping[str, str]:
    """Return the metrics of the texts that an objective generates, as OF_TEXTS; none if it generates none."""
    return OF_TEXTS if section.answers_in_text else {}


@declared
class CausalLMSection(ObjectiveSection):
    """Predict the next token."""

    kind: Literal["causal_lm"] = "causal_lm"
    documents: Literal["apart", "joined"] = Field(
        "apart", description="apart: no token sees another document of its row. joined: plain packing, as GPT-2 and GPT-3 did."
    )

    scored_by: ClassVar[ScoredBy] = "text"


@declared
class MaskedLMSection(ObjectiveSection):
    """Predict the masked tokens of a text from both sides (BERT, arXiv 1810.04805; DistilBERT without the next sentence)."""

    kind: Literal["masked_lm"]
    rate: float = Field(0.15, gt=0, lt=1, description="Fraction of a row's tokens to predict, rounded; at least one.")
    split: tuple[Fraction, Fraction, Fraction] = Field(
        (0.8, 0.1, 0.1), description="Fractions of these that become [MASK], become a random token, and stay unchanged."
    )
    masking: Literal["dynamic", "static"] = Field(
        "dynamic",
        description="dynamic: drawn anew in each epoch. static: the same in all; a source of weight 10 then gives BERT's ten copies.",
    )
    whole_words: bool = Field(False, description="Mask whole words, all their pieces together, as BERT's later models; needs WordPiece.")
    rarity: float = Field(
        0.0, ge=0, le=1, description="Rare tokens are masked more often, in proportion to count ^ -rarity (DistilBERT 0.7); 0: all alike."
    )
    next_sentence: bool = Field(False, description="Rows are two texts; predict whether the second follows the first (BERT).")
    short_rows: float = Field(0.1, ge=0, le=1, description="With next_sentence: fraction of rows that have a random shorter length.")

    stacks: ClassVar[tuple[Stacks, ...]] = ("encoder",)
    head: ClassVar[str] = "masked_lm"
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "accuracy", "mlm_loss", "next_sentence_loss", "next_sentence_accuracy")

    @model_validator(mode="after")
    def _fits(self) -> "MaskedLMSection":
        if abs(sum(self.split) - 1) > 1e-9:
            raise ValueError(f"split: the fractions sum to {sum(self.split):.3g}; their sum must be 1")
        if self.whole_words and self.rarity:
            raise ValueError("whole_words and rarity exclude each other: a word has no count; set one of them only")
        if not self.next_sentence and self.short_rows != MaskedLMSection.model_fields["short_rows"].default:
            raise ValueError("short_rows is read with next_sentence: true alone: remove it")
        return self

    @property
    def training_metrics(self) -> tuple[str, ...]:
        """The metrics; those of next sentences only if they are predicted."""
        of_pairs = ("mlm_loss", "next_sentence_loss", "next_sentence_accuracy")
        return self.metrics if self.next_sentence else tuple(name for name in self.metrics if name not in of_pairs)

    def misfits(self, model: "ModelSection", values: dict[str, Any], tokenizer: "TokenizerSection") -> Iterator[Contradiction]:
        """Check that the tokenizer has a mask token, and that the model has segments and an NSP head if rows are two texts."""
        head = values.get("head")
        if tokenizer.path is None and tokenizer.kind != "wordpiece":
            yield (
                ("tokenizer", "kind"),
                f"{tokenizer.kind} has no [CLS], [SEP] and [MASK], which the objective masked_lm needs: use wordpiece",
            )
        if "head" in model.changes and isinstance(head, dict) and bool(head.get("next_sentence")) != self.next_sentence:
            wanted = str(self.next_sentence).lower()
            yield (
                ("model", "head"),
                f"objective.next_sentence is {wanted}, but that of the head is not: make them equal, or leave the head out",
            )
        embedding = values.get("embedding")
        if self.next_sentence and ((embedding.get("segments") if isinstance(embedding, dict) else None) or 0) < 2:
            yield ("model",), "next_sentence distinguishes its two texts by segments: set model.embedding.segments to 2"


@declared
class ClassificationSection(ObjectiveSection):
    """The class of a text, or of a pair of texts; or a number for it (regression).

    A pair is joined by the tokenizer's template; by the token that ends a text if it has no template for pairs.
    """

    kind: Literal["classification"]
    labels: Labels | None = Field(
        None, min_length=2, description="The classes, in the order of their numbers; null: those of the training rows, sorted."
    )
    regression: bool = Field(False, description="The label is a number, and the loss the squared error (STS-B).")
    class_weights: Literal["balanced"] | None = Field(
        None,
        description="balanced: in training each row counts in inverse proportion to its class's frequency, with a mean of 1 over the rows; "
        "evaluations are not weighted. null: each row counts 1.",
    )

    roles: ClassVar[tuple[Role, ...]] = (
        Role("text", "text", ("text", "sentence", "sentence1", "premise", "question", "question1"), later=_TEXT_NAMES),
        Role("pair", "text", ("pair", "sentence2", "hypothesis", "question2"), required=False, later=_PAIR_NAMES),
        Role("label", "label", ("label", "labels", "gold_label", "category", "class", "intent", "score"), later=_LABEL_NAMES),
    )
    stacks: ClassVar[tuple[Stacks, ...]] = ("encoder", "decoder", "both")
    head: ClassVar[str] = "classes"
    reads_text: ClassVar[bool] = False
    metrics: ClassVar[tuple[str, ...]] = ("loss", *_OF_CLASSES, "rmse", "pearson", "spearman")

    @property
    def has_labels(self) -> bool:
        """Whether the head has classes: a number has none."""
        return not self.regression

    @property
    def named_labels(self) -> list[str] | None:
        """The recipe's `labels`."""
        return self.labels

    @property
    def problem_type(self) -> str | None:
        """`regression` for a number: a head of one output could be of one class, too."""
        return "regression" if self.regression else None

    @model_validator(mode="after")
    def _classes_or_a_number(self) -> "ClassificationSection":
        if self.regression and self.labels is not None:
            raise ValueError("labels are classes, but regression has none: remove one of the two")
        if self.regression and self.class_weights is not None:
            raise ValueError("class_weights is of classes, but regression has none: remove one of the two")
        return self

    @property
    def training_metrics(self) -> tuple[str, ...]:
        """The metrics of classes, or those of numbers."""
        return tuple(name for name in self.metrics if name == "loss" or (name in ("rmse", "pearson", "spearman")) == self.regression)


@declared
class TaggingSection(ObjectiveSection):
    """A tag for each word of a sentence: its part of speech, or its part of a name (B-person, I-person, O).

    The tag is predicted at a word's first piece. Words have a space before them if the tokenizer's own pieces have one (GPT-2).
    """

    kind: Literal["tagging"]
    labels: Labels | None = Field(
        None, min_length=2, description="The tags, in the order of their numbers; null: those of the training rows, sorted."
    )

    roles: ClassVar[tuple[Role, ...]] = (
        Role("tokens", "texts", ("tokens", "words", "forms", "form", "word"), later=("token", "sentence_tokens", "text_tokens")),
        Role("tags", "labels", ("tags", "ner_tags", "upos", "pos_tags", "pos", "labels", "ner"), later=_TAG_NAMES),
    )
    stacks: ClassVar[tuple[Stacks, ...]] = ("encoder", "decoder")
    head: ClassVar[str] = "tags"
    reads_text: ClassVar[bool] = False
    metrics: ClassVar[tuple[str, ...]] = ("loss", *_OF_CLASSES, "precision", "recall", "f1")

    @property
    def named_labels(self) -> list[str] | None:
        """The recipe's `labels`."""
        return self.labels


@declared
class MultipleChoiceSection(ObjectiveSection):
    """The right one of several answers, as GPT was fine-tuned: a score for `start context delimiter answer classify` of each answer,
    and the language model's loss beside it. The three are special tokens of the tokenizer (tokenizer.special_tokens); a finished
    tokenizer without them gets them after its own entries, and the model gets embeddings for them.
    """

    kind: Literal["multiple_choice"]
    lm_weight: Weight = Field(0.5, description="Weight of the language model's loss on contexts and answers; 0: none.")
    start: str | None = Field("_start_", description="The special token before the context; null: none.")
    delimiter: str = Field("_delimiter_", description="The special token between the context and an answer.")
    classify: str = Field("_classify_", description="The special token after an answer, at which its score is read.")

    roles: ClassVar[tuple[Role, ...]] = (
        Role("context", "text", ("context", "goal", "premise", "ctx", "question", "prompt", "story", "sentence")),
        Role("choices", "texts", ("choices", "endings", "options", "answers"), in_input=False),
        Role("label", "label", ("label", "labels", "answer", "answerKey", "gold"), by_number=True),
    )
    head: ClassVar[str] = "choices"  # of a language model that also scores whole sequences
    reads_text: ClassVar[bool] = False
    metrics: ClassVar[tuple[str, ...]] = ("loss", "choices", "lm", "accuracy")

    @property
    def training_metrics(self) -> tuple[str, ...]:
        """The metrics; the language model's loss only if it is trained."""
        return self.metrics if self.lm_weight else tuple(name for name in self.metrics if name != "lm")

    def misfits(self, model: "ModelSection", values: dict[str, Any], tokenizer: "TokenizerSection") -> Iterator[Contradiction]:
        """Check that the head scores a choice, and that the tokenizer has the tokens between the texts; a finished one gets them."""
        head = values.get("head")
        if "head" in model.changes and isinstance(head, dict) and not head.get("choices"):
            yield ("model", "head"), "the objective multiple_choice needs the score of a choice: add choices: true"
        if tokenizer.path is not None or model.start is not None:
            return
        own = VOCABULARIES[tokenizer.kind][variant_of(tokenizer.kind, tokenizer.variant)]
        for name in ("start", "delimiter", "classify"):
            token = getattr(self, name)
            if token is not None and token not in (*own.first, *tokenizer.special_tokens, *own.last):
                yield ("objective", name), f"{token!r} is not a special token of the tokenizer: add it to tokenizer.special_tokens"


@declared
class SpanCorruptionSection(ObjectiveSection):
    """Generate the spans that are missing from a text (T5, arXiv 1910.10683, 3.1.4). The documents of a source are read as one text."""

    kind: Literal["span_corruption"]
    rate: float = Field(0.15, gt=0, le=0.9, description="Fraction of the tokens that are removed.")
    mean_span: float = Field(3.0, ge=1, le=1_000_000, description="Mean length of a removed span, in tokens.")
    masking: Literal["dynamic", "static"] = Field("dynamic", description="dynamic: other spans in each epoch. static: the same in all.")

    stacks: ClassVar[tuple[Stacks, ...]] = ("both",)
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "token_accuracy")


@declared
class TextToTextSection(ObjectiveSection):
    """Generate the text that answers another: translation, summaries, any task in words (2017 Transformer; T5)."""

    kind: Literal["text_to_text"]
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Fraction of each target spread over the whole vocabulary, as in PyTorch; 0.1 in the 2017 paper."
    )

    roles: ClassVar[tuple[Role, ...]] = (
        # No `input` and no `question`: in the rows that have one, there is often an `instruction` or a `context`, too.
        Role("source", "text", ("source", "src", "inputs", "document", "article", "dialogue", "text", "en"), later=_SOURCE_NAMES),
        Role("target", "references", ("target", "tgt", "targets", "summary", "highlights", "fr", "de"), later=_TARGET_NAMES),
    )
    stacks: ClassVar[tuple[Stacks, ...]] = ("both",)
    reads_text: ClassVar[bool] = False
    answers_in_text: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "token_accuracy", "nll", *OF_TEXTS)

    @property
    def training_metrics(self) -> tuple[str, ...]:
        """The metrics; the loss without smoothing only if labels are smoothed."""
        return self.metrics if self.label_smoothing else tuple(name for name in self.metrics if name != "nll")


@declared
class ChatSection(ObjectiveSection):
    """Answer in a conversation: the loss is only on the assistant's text, and on the token that ends each of its turns.

    A row is a conversation (role and content, or from and value; with tools, tool_calls and messages by tool), or an exchange
    (instruction, input, output). The text of each
    format is in tfkit/tokenizer/chat_formats.py; the checkpoint gets it as its chat template. A finished tokenizer without the special
    tokens of the format gets them after its own entries, and the model gets embeddings for them.
    """

    kind: Literal["chat"]
    format: Literal["auto", "template", "chatml", "llama2", "llama3", "gemma", "mistral", "chatml_tools"] = Field(
        "auto",
        description="The format of a conversation. template: the tokenizer's own chat template. chatml: SmolLM2. chatml_tools: chatml with "
        "tools and calls of them. auto: the tokenizer's own template, else the format whose special tokens it has.",
    )
    system: str | None = Field(
        None, min_length=1, description="The system message of conversations that have none; null: the format's own, if it has one."
    )
    pack: bool = Field(False, description="Several conversations in a row, none of which sees another.")
    train_on: Literal["all", "last"] = Field(
        "all", description="all: every answer of a conversation has a loss. last: only the last one; the others are read."
    )

    roles: ClassVar[tuple[Role, ...]] = (
        Role("messages", "messages", ("messages", "conversations", "conversation"), shape="conversation"),
        Role("instruction", "text", ("instruction", "question", "prompt", "query"), shape="exchange", later=("user", "human", "problem")),
        Role("input", "text", ("input", "context"), required=False, shape="exchange"),
        Role("output", "references", ("output", "answer", "completion", "response"), shape="exchange", later=_ANSWER_NAMES),
        Role("system", "text", ("system", "system_prompt"), required=False),
        Role("tools", "tools", ("tools", "functions"), required=False, in_input=False),
    )
    reads_text: ClassVar[bool] = False
    answers_in_text: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "token_accuracy", *OF_TEXTS)

    @property
    def judged_alone(self) -> Self:
        """The same objective without other conversations in a row."""
        return self.model_copy(update={"pack": False})

    def problems(self, recipe: "Recipe", model: dict[str, Any]) -> Iterator[Contradiction]:
        """Yield settings that nothing reads."""
        if self.pack and not recipe.data.length_groups:
            yield ("data", "length_groups"), "packed rows have about equal lengths: remove it, or objective.pack"
        if self.system is not None and self.format == "template":
            yield ("objective", "system"), "the tokenizer's own chat template would ignore it: remove it, or name a format"
        elif self.system is not None and self.format in ("gemma", "mistral"):
            yield ("objective", "system"), f"the format {self.format} has no system message: remove it"


@declared
class DistillationSection(ObjectiveSection):
    """Learn from a larger model's whole distribution, on real text. DistilBERT (arXiv 1910.01108): temperature 2, weights 5, 2 and 1.
    Gemma 2 (arXiv 2408.00118): the teacher alone, at temperature 1.
    """

    kind: Literal["distillation"]
    teacher: str = Field(min_length=1, description="The model to learn from: a checkpoint, a run folder, or hub:org/name@revision.")
    teacher_sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of its weights, as a run writes it into its recipe, to learn from no other; null: any.",
    )
    of: Annotated[CausalLMSection | MaskedLMSection, Field(discriminator="kind")] = Field(
        description="The student's own objective, with its fields: {kind: causal_lm}, {kind: masked_lm, rate: 0.15}."
    )
    temperature: Positive = Field(1.0, description="Divides the logits of both, so that unlikely tokens count for more.")
    teacher_weight: Weight = Field(1.0, description="Weight of the divergence from the teacher's distribution; 0: none.")
    text_weight: Weight = Field(0.0, description="Weight of the loss on the text itself, that of the objective `of`; 0: none.")
    cosine_weight: Weight = Field(0.0, description="Weight of 1 - cosine between the last hidden states of both; 0: none.")
    masked_only: bool = Field(False, description="For masked_lm: the divergence at masked tokens only, not at all tokens.")
    copy_layers: list[Annotated[int, Field(ge=0, lt=MAX_LAYERS)]] | None = Field(
        None,
        min_length=1,
        description="The teacher's layer copied into each of the student's, from 0; the rest is copied too. null: random weights.",
    )

    companions: ClassVar[Mapping[str, bool]] = {"teacher": False}

    @property
    def trained_for(self) -> ObjectiveSection:
        """The student's own objective."""
        return self.of

    def problems(self, recipe: "Recipe", model: dict[str, Any]) -> Iterator[Contradiction]:
        """Check that the teacher is used, with its own tokens, and that each setting of the distillation is read."""
        default = DistillationSection.model_fields
        if recipe.tokenizer.path is None and recipe.model.start is None:
            yield ("tokenizer",), "a student reads its teacher's tokens: set tokenizer.path to the value of objective.teacher"
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
            yield ("objective", "copy_layers"), f"names {len(self.copy_layers)} layers for a student of {layers}: one for each of its own"


@declared
class MinimalPairsSection(ObjectiveSection):
    """Of two similar sentences, the model should find the good one more probable (BLiMP, arXiv 1912.00582). For evaluation only."""

    kind: Literal["minimal_pairs"]

    roles: ClassVar[tuple[Role, ...]] = (
        Role("good", "text", ("good", "sentence_good")),
        Role("bad", "text", ("bad", "sentence_bad")),
        Role("group", "label", ("group", "UID"), required=False),
    )
    reads_text: ClassVar[bool] = False
    scored_by: ClassVar[ScoredBy] = "likelihood"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)

    @property
    def reads_training(self) -> bool:
        """Whether it reads data.train: it only evaluates."""
        return False


@declared
class FewShotSection(ObjectiveSection):
    """Choose the most probable of several answers, after examples of the task in the prompt (GPT-3, arXiv 2005.14165, 2.4).

    For evaluation only: no weight is changed. The examples are rows of data.train.
    """

    kind: Literal["few_shot"]
    shots: Shots = Field(0, description="Examples before each question, drawn anew for each, never the row itself; 0: none.")
    seed: int = Field(1, ge=0, lt=2**32, description="Seed of the draws.")
    template: str = Field(
        "{context} {answer}", description="The text of a row, {context} once and {answer} at the end: 'Q: {context} A: {answer}'."
    )
    separator: str = Field("\n\n", description="The text between two rows of a prompt.")
    choices: Labels | None = Field(
        None, min_length=2, description="The answers of rows that have none of their own: for a classification the names of its labels."
    )
    normalize: Literal["none", "tokens", "bytes", "unconditional"] = Field(
        "none",
        description="The answer's log-probability, the same per token, or per byte; unconditional: minus its log-probability without "
        "the question, after the template's text between {context} and {answer} (as GPT-3 for some tasks).",
    )

    roles: ClassVar[tuple[Role, ...]] = (
        Role("context", "text", (*MultipleChoiceSection.roles[0].columns, "text")),
        MultipleChoiceSection.roles[1]._replace(required=False),
        Role("label", "label", (*MultipleChoiceSection.roles[2].columns, "category", "class", "intent"), by_number=True),
    )
    stacks: ClassVar[tuple[Stacks, ...]] = ("decoder", "both")
    reads_text: ClassVar[bool] = False
    scored_by: ClassVar[ScoredBy] = "likelihood"
    metrics: ClassVar[tuple[str, ...]] = (
        *("accuracy", "accuracy_none", "accuracy_tokens", "accuracy_bytes", "accuracy_unconditional"),
        "chance",
    )

    @property
    def reads_training(self) -> bool:
        """Whether it reads data.train: for the examples of its prompts, if there are any."""
        return self.shots > 0

    @model_validator(mode="after")
    def _has_both_places(self) -> "FewShotSection":
        if self.template.count("{context}") != 1 or self.template.count("{answer}") != 1 or not self.template.endswith("{answer}"):
            raise ValueError(f"template {self.template!r}: it must have {{context}} once, and {{answer}} once, at its end")
        return self
