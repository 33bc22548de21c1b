"""The objectives on rows with a right answer: classes, tags, choices, sets of labels. Some of them only evaluate a trained model."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from tfkit.recipe.schema.bounds import Shots, Weight
from tfkit.recipe.schema.objective_facts import Contradiction, ObjectiveSection, ScoredBy, Stacks, declared
from tfkit.recipe.schema.roles import Role
from tfkit.recipe.schema.vocabularies import vocabulary_of

if TYPE_CHECKING:
    from tfkit.recipe.schema.data_sections import TokenizerSection
    from tfkit.recipe.schema.sections import ModelSection


def _all_different(labels: list[str]) -> list[str]:
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"{', '.join(map(repr, twice))} is given twice: remove one")
    return labels


Labels = Annotated[list[str], AfterValidator(_all_different)]
NamedLabels = Annotated[
    Labels | None,
    Field(min_length=2, description="The labels (classes or tags), in the order of their ids; null: those of the training rows, sorted."),
]


# Column names of common public data sets, in order of preference. They count only if a row has none of a role's main names, `columns`.
_TEXT_NAMES = (
    *("sentence_a", "sentence_1", "text_a", "text_1", "text1", "sent1", "string1", "review", "review_text", "reviewtext", "review_body"),
    *("tweet", "tweet_text", "comment", "comment_text", "message", "sms", "utterance", "query", "phrase", "headline", "post", "content"),
    *("full_text", "clean_text", "body", "statement", "claim", "passage", "document", "article", "abstract", "description", "title", "v2"),
)
_PAIR_NAMES = ("sentence_b", "sentence_2", "text_b", "text_2", "text2", "sent2", "string2")
_LABEL_NAMES = (
    *("sentiment", "sentiment_label", "airline_sentiment", "polarity", "rating", "star_rating", "stars", "overall", "emotion", "topic"),
    # `folder`: the name of a text's folder, for data with a folder for each class.
    *("target", "class_label", "class_index", "class_name", "label_text", "category_name", "folder", "intent_name", "is_spam", "spam"),
    *("toxic", "hate_speech"),
    *("is_duplicate", "similarity", "similarity_score", "relatedness_score", "entailment_judgment", "entailment_label", "stance", "v1"),
)
_TAG_NAMES = ("tag", "ner_labels", "entity_tags", "iob", "bio", "pos_labels", "pos_tag", "ner_tag", "xpos", "chunk_tags")
_RIGHT_NAMES = ("answer_idx", "answer_index", "correct_answer", "correct_option", "correct", "right_answer", "answer_key", "cop")
_CLASS_METRICS = ("accuracy", "f1_macro", "f1_micro", "matthews", "majority")


@declared
class ClassificationSection(ObjectiveSection):
    """Predict the class of a text or of a pair of texts, or a number for it (regression).

    The texts of a pair are joined by the tokenizer's template for pairs or, if it has none, by the token that ends a text.
    """

    kind: Literal["classification"]
    labels: NamedLabels = None
    regression: bool = Field(False, description="The label is a number, and the loss the squared error (STS-B).")
    class_weights: Literal["balanced"] | None = Field(
        None,
        description="balanced: in training each row has a weight in inverse proportion to the frequency of its class; the mean weight of "
        "the rows that an epoch reads is 1. Evaluations are not weighted. null: each row has the weight 1.",
    )

    roles: ClassVar[tuple[Role, ...]] = (
        Role("text", "text", ("text", "sentence", "sentence1", "premise", "question", "question1"), later=_TEXT_NAMES),
        Role("pair", "text", ("pair", "sentence2", "hypothesis", "question2"), required=False, later=_PAIR_NAMES),
        Role("label", "label", ("label", "labels", "gold_label", "category", "class", "intent", "score"), later=_LABEL_NAMES),
    )
    stacks: ClassVar[tuple[Stacks, ...]] = ("encoder", "decoder", "both")
    head: ClassVar[str] = "classes"
    reads_text: ClassVar[bool] = False
    has_baselines: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("loss", *_CLASS_METRICS, "rmse", "pearson", "spearman")

    @property
    def has_labels(self) -> bool:
        """Whether the head has an output for each class: true, except in regression."""
        return not self.regression

    @property
    def problem_type(self) -> str | None:
        """Hugging Face's problem_type: `regression` if the label is a number, else None."""
        return "regression" if self.regression else None

    @model_validator(mode="after")
    def _classes_or_a_number(self) -> "ClassificationSection":
        if self.regression and self.labels is not None:
            raise ValueError("labels are classes, but regression has none: remove one of the two")
        if self.regression and self.class_weights is not None:
            raise ValueError("class_weights are weights of classes, but regression has none: remove one of the two")
        return self

    @property
    def training_metrics(self) -> tuple[str, ...]:
        """The metrics of classification or, if `regression` is true, those of regression."""
        return tuple(name for name in self.metrics if name == "loss" or (name in ("rmse", "pearson", "spearman")) == self.regression)


@declared
class TaggingSection(ObjectiveSection):
    """Predict a tag for each word of a sentence, such as its part of speech, or its place in a name (B-person, I-person, O).

    The tag is predicted at a word's first token. A word is tokenized with a space before it if the tokenizer marks the beginnings of words
    by spaces (GPT-2).
    """

    kind: Literal["tagging"]
    labels: NamedLabels = None

    roles: ClassVar[tuple[Role, ...]] = (
        Role("tokens", "texts", ("tokens", "words", "forms", "form", "word"), later=("token", "sentence_tokens", "text_tokens")),
        Role("tags", "labels", ("tags", "ner_tags", "upos", "pos_tags", "pos", "labels", "ner"), later=_TAG_NAMES),
    )
    stacks: ClassVar[tuple[Stacks, ...]] = ("encoder", "decoder")
    head: ClassVar[str] = "tags"
    reads_text: ClassVar[bool] = False
    has_baselines: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("loss", *_CLASS_METRICS, "precision", "recall", "f1")


@declared
class MultipleChoiceSection(ObjectiveSection):
    """Choose the right one of several answers, as GPT was fine-tuned: the head scores each answer's sequence `start context delimiter
    answer classify`, and a language-model loss on these sequences is added. `start`, `delimiter` and `classify` are special tokens
    (tokenizer.special_tokens). If a finished tokenizer lacks one, it is added after the entries, and the model gets an embedding for it.
    """

    kind: Literal["multiple_choice"]
    lm_weight: Weight = Field(0.5, description="Weight of the language-model loss on contexts and answers; 0: no such loss.")
    start: str | None = Field("_start_", description="The special token before the context; null: none.")
    delimiter: str = Field("_delimiter_", description="The special token between the context and an answer.")
    classify: str = Field("_classify_", description="The special token after an answer, at which its score is read.")

    roles: ClassVar[tuple[Role, ...]] = (
        Role(
            "context",
            "text",
            ("context", "goal", "premise", "ctx", "question", "prompt", "story", "sentence"),
            later=("question_stem",),
            within=("question.stem",),
        ),
        Role("choices", "choices", ("choices", "endings", "options", "answers"), in_input=False, within=("question.choices",)),
        Role("label", "label", ("label", "labels", "answer", "answerKey", "gold"), by_number=True, later=_RIGHT_NAMES),
    )
    head: ClassVar[str] = "choices"  # a language model's head that also scores whole sequences
    reads_text: ClassVar[bool] = False
    has_baselines: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("loss", "choices", "lm", "accuracy")

    @property
    def training_metrics(self) -> tuple[str, ...]:
        """The metrics, without the language-model loss if lm_weight is 0."""
        return self.metrics if self.lm_weight else tuple(name for name in self.metrics if name != "lm")

    def misfits(self, model: "ModelSection", values: dict[str, Any], tokenizer: "TokenizerSection") -> Iterator[Contradiction]:
        """Check that the head scores choices, and that a tokenizer that is to be trained has the special tokens."""
        head = values.get("head")
        if "head" in model.changes and isinstance(head, dict) and not head.get("choices"):
            yield ("model", "head"), "the objective multiple_choice needs the score of a choice: add choices: true"
        if tokenizer.path is not None or model.start is not None:
            return
        vocabulary = vocabulary_of(tokenizer.kind, tokenizer.variant)
        for name in ("start", "delimiter", "classify"):
            token = getattr(self, name)
            if token is not None and token not in (*vocabulary.first, *tokenizer.special_tokens, *vocabulary.last):
                yield ("objective", name), f"{token!r} is not a special token of the tokenizer: add it to tokenizer.special_tokens"


@declared
class MinimalPairsSection(ObjectiveSection):
    """Test whether the model finds the good one of two similar sentences more probable (BLiMP, arXiv 1912.00582). For evaluation only."""

    kind: Literal["minimal_pairs"]

    roles: ClassVar[tuple[Role, ...]] = (
        Role("good", "text", ("good", "sentence_good")),
        Role("bad", "text", ("bad", "sentence_bad")),
        Role("group", "label", ("group", "UID"), required=False),
    )
    reads_text: ClassVar[bool] = False
    scored_by: ClassVar[ScoredBy] = "likelihood"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)


@declared
class FewShotSection(ObjectiveSection):
    """Choose the most probable of several answers, after examples of the task in the prompt (GPT-3, arXiv 2005.14165, 2.4).

    This objective is for evaluation only: nothing is trained. The examples are rows of data.train.
    """

    kind: Literal["few_shot"]
    shots: Shots = Field(0, description="Number of examples before each question, drawn anew for each one, without its own row; 0: none.")
    seed: int = Field(1, ge=0, lt=2**32, description="Seed of the draws.")
    template: str = Field(
        "{context} {answer}", description="The text of a row, with {context} once, and {answer} at the end: 'Q: {context} A: {answer}'."
    )
    separator: str = Field("\n\n", description="The text between two rows of a prompt.")
    choices: Labels | None = Field(
        None, min_length=2, description="The answers for rows that have none of their own: for a classification, the names of its labels."
    )
    normalize: Literal["none", "tokens", "bytes", "unconditional"] = Field(
        "none",
        description="The score of an answer. none: its log-probability. tokens, bytes: divided by the answer's number of tokens or bytes. "
        "unconditional: minus the answer's log-probability without the question, after the template's text between {context} and {answer} "
        "alone (as GPT-3 for some tasks).",
    )

    roles: ClassVar[tuple[Role, ...]] = (
        MultipleChoiceSection.roles[0]._replace(columns=(*MultipleChoiceSection.roles[0].columns, "text")),
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
        """Whether the objective reads data.train, from which the examples are drawn: only if `shots` is above 0."""
        return self.shots > 0

    @model_validator(mode="after")
    def _has_both_places(self) -> "FewShotSection":
        if self.template.count("{context}") != 1 or self.template.count("{answer}") != 1 or not self.template.endswith("{answer}"):
            raise ValueError(f"template {self.template!r}: it must have {{context}} once, and {{answer}} once, at its end")
        return self


@declared
class MultiLabelSection(ObjectiveSection):
    """Predict which labels, any number of them, apply to a text or to a pair of texts: each label has a probability of its own.

    The labels of a row are a list, a text with a delimiter between them ('red|blue'), or columns of 0 and 1, one for each label:
    `columns: {labels: [toxic, insult]}`.
    """

    kind: Literal["multi_label"]
    labels: NamedLabels = None
    delimiter: str = Field("|", min_length=1, description="The separator of the labels in a row whose labels are one text.")

    roles: ClassVar[tuple[Role, ...]] = (
        *ClassificationSection.roles[:2],
        Role("labels", "label_set", ("labels", "label", "tags", "categories", "genres", "topics", "emotions")),
    )
    stacks: ClassVar[tuple[Stacks, ...]] = ClassificationSection.stacks
    head: ClassVar[str] = "classes"
    reads_text: ClassVar[bool] = False
    has_baselines: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("loss", "f1_micro", "f1_macro", "precision", "recall", "exact_match")

    @property
    def problem_type(self) -> str | None:
        """The name in Hugging Face's config.json for labels that do not exclude each other."""
        return "multi_label_classification"

    def labels_in(self, value: Any) -> Mapping[str, bool]:
        """Return the labels in `value`, which is a row's value for the role `labels`, and whether each label applies to the row."""
        if isinstance(value, Mapping):
            return value
        names = map(str.strip, value.split(self.delimiter)) if isinstance(value, str) else map(str, value)
        return {name: True for name in names if name}
