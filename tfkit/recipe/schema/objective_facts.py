"""The base class of objective sections, with the properties of an objective that need no model, and the registry of these sections."""

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar, get_args

from tfkit.errors import UsageError
from tfkit.model.config import Data
from tfkit.recipe.schema.roles import LABELS, REFERENCES, TEXT, Role

if TYPE_CHECKING:
    from tfkit.recipe.schema.data_sections import TokenizerSection
    from tfkit.recipe.schema.sections import ModelSection, Recipe

Stacks = Literal["encoder", "decoder", "both"]
ScoredBy = Literal["text", "row", "rollout", "likelihood"]
OWN_HEADS = ("classes", "tags", "spans")  # kinds of heads that replace the head of pretraining
Contradiction = tuple[tuple[str | int, ...], str]  # the path of a field, and the message that says what is wrong with its value


class ObjectiveSection(Data):
    """The base of all objective sections. A section has the properties of its kind, and adds the fields that a recipe may set."""

    kind: str

    roles: ClassVar[tuple[Role, ...]] = TEXT  # the parts of a row that the objective reads
    stacks: ClassVar[tuple[Stacks, ...]] = ("decoder",)  # the kinds of models that the objective trains or evaluates
    head: ClassVar[str] = "lm"  # the kind of head that the objective needs
    reads_text: ClassVar[bool] = True  # whether rows are cut from a stream of text; if not, each row of data is an example
    has_baselines: ClassVar[bool] = False  # whether scores are compared with baselines that need no model (evaluation/baselines.py)
    needs_start: ClassVar[bool] = False  # whether a training must start from a checkpoint, not from random weights
    answers_in_text: ClassVar[bool] = False  # whether generated texts are compared with references in the rows
    # What an evaluation scores. text: texts, cut to the length of rows. row: each row of the data. rollout: sampled responses.
    # likelihood: the probabilities of texts; such an objective is for evaluation only.
    scored_by: ClassVar[ScoredBy] = "row"
    best_by: ClassVar[str] = "loss"  # the metric that chooses the best checkpoint if the recipe names none
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "bits_per_byte", "target_tokens")  # metrics that an evaluation may report
    # Companions: the fields that name models beside the trained one, and for each field whether its model is trained, too. The field
    # `<name>_sha256` has the required hash of the companion `name`.
    companions: ClassVar[Mapping[str, bool]] = {}
    companion_heads: ClassVar[Mapping[str, str]] = {}  # the kind of head that a companion needs; a companion without an entry may have any
    needed_alone: ClassVar[frozenset[str]] = frozenset()  # fields that a checkpoint's tfkit.json keeps, since predictions have no recipe

    @property
    def asked_roles(self) -> tuple[Role, ...]:
        """The roles of a row without an answer, as `tfkit predict` reads it: all but labels and references."""
        return tuple(role for role in self.roles if role.form not in (*LABELS, *REFERENCES))

    @property
    def training_metrics(self) -> tuple[str, ...]:
        """The metrics that an evaluation computes with the values of this section's fields."""
        return self.metrics

    def may_be_best(self, metrics: Mapping[str, float]) -> bool:
        """Return whether a checkpoint with these metrics may be the best one: always, unless a subclass limits a metric."""
        return True

    @property
    def trained_for(self) -> "ObjectiveSection":
        """The objective by which the trained model is evaluated: this one, or that in the field `of` (as in distillation)."""
        return self

    @property
    def saved_kind(self) -> str:
        """The kind of objective that the trained checkpoint's tfkit.json names."""
        return self.kind

    @property
    def judged_alone(self) -> Self:
        """The same objective without packing, so that evaluations have one example per row."""
        return self

    @property
    def reads_training(self) -> bool:
        """Whether the objective reads the rows of data.train. By default true, except for objectives that only evaluate."""
        return self.scored_by != "likelihood"

    @property
    def reads_pretraining(self) -> bool:
        """Whether the objective's steps read text of data.pretraining besides their own rows."""
        return False

    @property
    def has_labels(self) -> bool:
        """Whether the objective's head has an output for each class or tag of the data."""
        return self.head in ("classes", "tags")

    @property
    def named_labels(self) -> list[str] | None:
        """The classes or tags in the recipe's `labels`; None if they are taken from the data."""
        return getattr(self, "labels", None)

    def labels_in(self, value: Any) -> Mapping[str, bool]:
        """Return the labels in a row's `value` for the role `labels`, and whether each applies; empty if the objective lacks the role."""
        return {}

    @property
    def problem_type(self) -> str | None:
        """The type of the labels in Hugging Face's config.json; None if the head determines it."""
        return None

    @property
    def code_files(self) -> dict[str, str]:
        """The path of each code file that the objective runs, by the field that names it."""
        return {}

    def problems(self, recipe: "Recipe", model: dict[str, Any]) -> Iterable[Contradiction]:
        """Return the contradictions between this section and others. `model`: the config values that the recipe states for its model."""
        return ()

    def misfits(self, model: "ModelSection", values: dict[str, Any], tokenizer: "TokenizerSection") -> Iterable[Contradiction]:
        """Return the reasons why a model and its tokenizer do not fit the objective; reading/checks.py checks stacks and head.

        `model`: one that a recipe describes, or a checkpoint's; `values`: its config values, of which a recipe may state only some.
        """
        return ()

    @property
    def companion_paths(self) -> dict[str, str]:
        """The path of each companion that is not null."""
        return {name: path for name in self.companions if (path := getattr(self, name)) is not None}

    @property
    def pins(self) -> dict[str, str | None]:
        """The required SHA-256 of each companion; None if any is accepted."""
        return {name: getattr(self, f"{name}_sha256") for name in self.companions}

    def pinned(self, hashes: Mapping[str, str | None]) -> Self:
        """Return the same section with `hashes` as the required SHA-256 of its companions, by name."""
        return self.model_copy(update={f"{name}_sha256": sha256 for name, sha256 in hashes.items()})


Section = TypeVar("Section", bound=ObjectiveSection)
SECTIONS: dict[str, type[ObjectiveSection]] = {}  # the registered sections by kind, in the order in which messages list the kinds


def declared(section: type[Section]) -> type[Section]:
    """Register an objective section for recipes. If the class Recipe exists already, call `rebuild_recipe` afterwards."""
    (kind,) = get_args(section.model_fields["kind"].annotation)
    SECTIONS[kind] = section
    return section


def any_declared() -> Any:
    """Return the union type of all registered sections."""
    return reduce(or_, SECTIONS.values())


def judges_only(section: ObjectiveSection) -> UsageError:
    """Return the error for training with an objective that is for evaluation only."""
    return UsageError(
        f"objective: {section.kind} evaluates a finished model: use it with `tfkit evaluate --from CKPT`; train with another objective, "
        "such as causal_lm"
    )
