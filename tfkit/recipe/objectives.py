"""The objectives of a recipe, one section each: its fields, what it reads of a row, and which models it is for. Torch-free.

`roles` is what a row must hold; `stacks` and `head` say which models an objective trains. They are facts of the kind, not fields.
"""

from typing import ClassVar, Literal

from pydantic import Field

from tfkit.model.config import Data
from tfkit.recipe.roles import TEXT, Role

Stacks = Literal["encoder", "decoder", "both"]


class _Objective(Data):
    """What every objective says of itself."""

    roles: ClassVar[tuple[Role, ...]] = TEXT
    stacks: ClassVar[tuple[Stacks, ...]] = ("decoder",)
    head: ClassVar[str] = "lm"  # the kind of head that it trains
    reads_text: ClassVar[bool] = True  # rows cut from a stream of text; else each row is an example of its own


class CausalLMSection(_Objective):
    """Predict the next token."""

    kind: Literal["causal_lm"] = "causal_lm"
    documents: Literal["apart", "joined"] = Field(
        "apart", description="apart: no token sees another document of its row. joined: plain packing, as GPT-2 and GPT-3 did."
    )


class ClassificationSection(_Objective):
    """The class of a text, or of a pair of texts; or a number for it (regression)."""

    kind: Literal["classification"]
    labels: list[str] | None = Field(
        None, min_length=2, description="The classes, in the order of their numbers; null: those of the training rows, sorted."
    )
    regression: bool = Field(False, description="The label is a number, and the loss the squared error (STS-B).")

    roles: ClassVar[tuple[Role, ...]] = (
        Role("text", "text", ("text", "sentence", "sentence1", "premise", "question", "question1")),
        Role("pair", "text", ("pair", "sentence2", "hypothesis", "question2"), required=False),
        Role("label", "label", ("label", "labels", "gold_label", "category", "class", "intent", "score")),
    )
    stacks: ClassVar[tuple[Stacks, ...]] = ("encoder", "decoder", "both")
    head: ClassVar[str] = "classes"
    reads_text: ClassVar[bool] = False


ObjectiveSection = CausalLMSection | ClassificationSection
