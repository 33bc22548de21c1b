"""The section of multi-label classification: any number of labels for a text. Torch-free."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from tfkit.recipe.schema.label_sections import ClassificationSection, Labels
from tfkit.recipe.schema.objective_facts import ObjectiveSection, Stacks, declared
from tfkit.recipe.schema.roles import Role


@declared
class MultiLabelSection(ObjectiveSection):
    """Any number of labels for a text, or for a pair of texts: each applies or not, and the probability of each is independent.

    The labels of a row are a list, a text with a delimiter between them ('red|blue'), or columns of 0 and 1, one for each label:
    `columns: {labels: [toxic, insult]}`.
    """

    kind: Literal["multi_label"]
    labels: Labels | None = Field(
        None, min_length=2, description="The labels, in the order of their numbers; null: those of the training rows, sorted."
    )
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
        """Hugging Face's name for labels that do not exclude each other."""
        return "multi_label_classification"

    def labels_in(self, value: Any) -> Mapping[str, bool]:
        """Return the labels that a row's value of the role `labels` names, and whether each applies."""
        if isinstance(value, Mapping):
            return value
        names = map(str.strip, value.split(self.delimiter)) if isinstance(value, str) else map(str, value)
        return {name: True for name in names if name}
