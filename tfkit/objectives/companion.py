"""A further model that an objective needs: a teacher now; a reference, reward or value model has the same form."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfkit.adapters import load
from tfkit.errors import ModelError
from tfkit.hub import content_hash, run_id_of
from tfkit.hub.config_json import read_facts
from tfkit.model.transformer import Transformer
from tfkit.recipe.schema.objective_facts import ObjectiveSection
from tfkit.tokenizer import Tokenizer

PLACEHOLDER = "placeholder"  # in tfkit.json of a model that is in the place of one that is not trained yet


@dataclass(frozen=True)
class Companion:
    """A model beside the one of the run, and what the run records of it."""

    name: str  # the field of the objective's section that names it, and its role among the parents
    model: Transformer
    path: str  # as the recipe has it
    sha256: str  # of its configuration and weights, before the first step
    run_id: str | None = None  # of the run that made it
    tokenizer: Tokenizer | None = None
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)  # its tfkit.json, such as the shift of a reward model's scores
    trained: bool = False  # its weights change with those of the run; in either case it draws no dropout
    lr: float | None = None  # peak learning rate of one that is trained; None: that of the run
    folder: Path | None = None  # where its files are; None: it was made in memory

    def parent(self) -> dict[str, str | None]:
        """Its entry among the parents in tfkit.json."""
        return {"role": self.name, "path": self.path, "run_id": self.run_id, "sha256": self.sha256}


def open_companion(section: ObjectiveSection, name: str, *, blocks_later: bool = False) -> Companion:
    """Load the model that a field of the section names. Raises ModelError, also if it is not the one that the recipe pins.

    `blocks_later`: as in `tfkit.hub.load`, for ranks that share it.
    """
    path, trained = section.companion_paths[name], section.companions[name]
    loaded = load(path, blocks_later=blocks_later)
    sha256 = content_hash(loaded.folder)
    if (pin := section.pins[name]) not in (None, sha256):
        raise ModelError(
            f"objective.{name}: {path} has changed since this recipe was run: the SHA-256 of its weights was {pin} and is now {sha256}. "
            f"Restore it, or remove objective.{name}_sha256 to use it as it is now"
        )
    model, facts = loaded.model.requires_grad_(trained), read_facts(loaded.folder)
    return Companion(name, model, path, sha256, run_id_of(loaded.folder), loaded.codec, facts, trained, folder=loaded.folder)
