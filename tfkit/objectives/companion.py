"""The models that an objective needs in addition to the trained one, such as a teacher, a reward model or a value model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfkit.adapters import load
from tfkit.errors import ModelError
from tfkit.hub import content_hash, run_id_of
from tfkit.model.transformer import Transformer
from tfkit.recipe.schema.objective_facts import ObjectiveSection
from tfkit.tokenizer import Tokenizer

PLACEHOLDER = "placeholder"  # marks, in tfkit.json, an untrained model that `tfkit plan` uses in place of one not yet trained


@dataclass(frozen=True)
class Companion:
    """A model that a run uses in addition to that of the recipe's section `model`, and the facts that the run records about it."""

    name: str  # the field of the objective's section that names the model; also the model's `role` in `parents` (see `parent`)
    model: Transformer
    path: str  # the checkpoint as the recipe names it
    sha256: str  # the hash of the configuration and weights before the first step
    run_id: str | None = None  # the id of the run that trained it, if known
    tokenizer: Tokenizer | None = None  # None: its folder has no tokenizer
    problem_type: str | None = None  # Hugging Face's name for the type of its labels, if its config.json has one
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)  # the content of its tfkit.json
    trained: bool = False  # whether this run also trains this model, without dropout
    lr: float | None = None  # the peak learning rate of a trained companion; None: that of the run
    folder: Path | None = None  # the folder of the model's files; None: the model exists in memory only

    def parent(self) -> dict[str, str | None]:
        """Return the companion's entry in `parents`, the list in tfkit.json of the models that a checkpoint was made from."""
        return {"role": self.name, "path": self.path, "run_id": self.run_id, "sha256": self.sha256}


def refuse_misfit(companion: Companion, what: str, reasons: Sequence[str]) -> None:
    """Raise ModelError if there are `reasons` why a companion cannot do `what`; the message lists all of them."""
    if reasons:
        raise ModelError("\n  ".join([f"objective.{companion.name}: {companion.path} cannot {what}:", *reasons]))


def open_companion(section: ObjectiveSection, name: str, *, defer_blocks: bool = False) -> Companion:
    """Load the model whose path is in the section's field `name`. Raises ModelError, for example if its hash is not the one in the recipe.

    `defer_blocks`: leave the model's blocks on the meta device, for ranks that shard them one by one.
    """
    path, trained = section.companion_paths[name], section.companions[name]
    loaded = load(path, defer_blocks=defer_blocks)
    sha256 = content_hash(loaded.folder)
    if (pin := section.pins[name]) not in (None, sha256):
        raise ModelError(
            f"objective.{name}: {path} has changed since this recipe was run: the SHA-256 of its weights was {pin} and is now {sha256}. "
            f"Restore it, or remove objective.{name}_sha256 to use it as it is now"
        )
    model, run_id = loaded.model.requires_grad_(trained), run_id_of(loaded.folder)
    return Companion(name, model, path, sha256, run_id, loaded.codec, loaded.problem_type, loaded.facts, trained, folder=loaded.folder)
