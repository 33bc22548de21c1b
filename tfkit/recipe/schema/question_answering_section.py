"""The section of extractive question answering: the answer to a question is a part of its context."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tfkit.recipe.schema.bounds import Count, CountOrZero
from tfkit.recipe.schema.objective_facts import Contradiction, ObjectiveSection, Stacks, declared
from tfkit.recipe.schema.roles import Role
from tfkit.recipe.schema.vocabularies import vocabulary_of

if TYPE_CHECKING:
    from tfkit.recipe.schema.data_sections import TokenizerSection
    from tfkit.recipe.schema.sections import ModelSection


@declared
class QuestionAnsweringSection(ObjectiveSection):
    """Mark the part of a context that answers a question (SQuAD, arXiv 1606.05250; unanswerable questions: SQuAD 2, arXiv 1806.03822).

    A context that does not fit into the model's context length is read in overlapping windows, each after the question.
    """

    kind: Literal["question_answering"]
    unanswerable: bool = Field(
        False, description="Some questions have no answer in their context, and the model may predict that there is none (SQuAD 2)."
    )
    doc_stride: CountOrZero = Field(
        128, description="Tokens that two windows of a context share, as in transformers; at most half of a window."
    )
    max_answer_tokens: Count = Field(30, description="Largest number of tokens of a predicted answer.")

    roles: ClassVar[tuple[Role, ...]] = (
        # Several questions may have the same context, so the context alone decides which rows are held out together.
        Role("question", "text", ("question", "query"), in_input=False, later=("query_text", "question_text")),
        Role("context", "text", ("context", "passage", "paragraph"), later=("context_text", "passage_text", "paragraph_text")),
        Role("answers", "answers", ("answers", "answer")),
    )
    stacks: ClassVar[tuple[Stacks, ...]] = ("encoder",)
    head: ClassVar[str] = "spans"
    reads_text: ClassVar[bool] = False
    has_baselines: ClassVar[bool] = True
    needed_alone: ClassVar[frozenset[str]] = frozenset({"unanswerable", "doc_stride", "max_answer_tokens"})
    metrics: ClassVar[tuple[str, ...]] = ("loss", "exact_match", "f1", "has_answer_exact_match", "has_answer_f1", "no_answer_exact_match")

    @property
    def training_metrics(self) -> tuple[str, ...]:
        """The metrics, without the separate ones of questions with and without an answer if `unanswerable` is false."""
        return self.metrics if self.unanswerable else self.metrics[:3]

    def misfits(self, model: "ModelSection", values: dict[str, Any], tokenizer: "TokenizerSection") -> Iterator[Contradiction]:
        """Check that the tokenizer puts a token before a pair of texts: at this token the model predicts that a window has no answer."""
        vocabulary = vocabulary_of(tokenizer.kind, tokenizer.variant)
        begins = vocabulary.roles.keys() & {"cls_token", "bos_token"} and tokenizer.add_bos
        if tokenizer.path is None and not begins:
            yield (
                ("tokenizer", "kind"),
                f"{tokenizer.kind} with these settings puts no token before a text, but question_answering needs one: use wordpiece",
            )
