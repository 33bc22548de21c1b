"""The objectives that only evaluate a finished model: minimal pairs, and few-shot prompts. Torch-free."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from tfkit.recipe.schema.bounds import Shots
from tfkit.recipe.schema.label_sections import Labels, MultipleChoiceSection
from tfkit.recipe.schema.objective_facts import ObjectiveSection, ScoredBy, Stacks, declared
from tfkit.recipe.schema.roles import Role


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


@declared
class FewShotSection(ObjectiveSection):
    """Choose the most probable of several answers, after examples of the task in the prompt (GPT-3, arXiv 2005.14165, 2.4).

    For evaluation only: no weight is changed. The examples are rows of data.train.
    """

    kind: Literal["few_shot"]
    shots: Shots = Field(0, description="Examples before each question, drawn for each question, never the row itself; 0: none.")
    seed: int = Field(1, ge=0, lt=2**32, description="Seed of the draws.")
    template: str = Field(
        "{context} {answer}", description="The text of a row, {context} once and {answer} at the end: 'Q: {context} A: {answer}'."
    )
    separator: str = Field("\n\n", description="The text between two rows of a prompt.")
    choices: Labels | None = Field(
        None, min_length=2, description="The answers, for rows without their own: for a classification the names of its labels."
    )
    normalize: Literal["none", "tokens", "bytes", "unconditional"] = Field(
        "none",
        description="The answer's log-probability, the same per token, or per byte; unconditional: minus its log-probability without "
        "the question, after the template's text between {context} and {answer} (as GPT-3 for some tasks).",
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
        """Whether it reads data.train: for the examples of its prompts, if there are any."""
        return self.shots > 0

    @model_validator(mode="after")
    def _has_both_places(self) -> "FewShotSection":
        if self.template.count("{context}") != 1 or self.template.count("{answer}") != 1 or not self.template.endswith("{answer}"):
            raise ValueError(f"template {self.template!r}: it must have {{context}} once, and {{answer}} once, at its end")
        return self
