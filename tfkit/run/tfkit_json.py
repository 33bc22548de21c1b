"""tfkit.json of a checkpoint: the facts about a model that config.json omits. Objectives may add fields, such as `reward_shift` of a reward
model.

{"schema_version": 1, "model": {"dropout": ...}, "labels": [...], "objective": "causal_lm", "objective_settings": {...},
 "run_id": ..., "step": 500, "tokens": ..., "data": {"train": [fingerprints]}, "lineage": {...} (lineage.py), "averaged": {...}}
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfkit.run import strict_json
from tfkit.run.fitting_fields import fitting
from tfkit.run.lineage import ParentEntry, parent_entries
from tfkit.run.model_files import MIB, check_version, read_object
from tfkit.run.verified import find_named

NAME = "tfkit.json"
SCHEMA_VERSION = 1
_LIMIT = 4 * MIB  # bytes, a thousand times the usual size of a tfkit.json


@dataclass(frozen=True)
class ModelDocument:
    """The content of a tfkit.json. A field that is missing in the file, or has another type than tfkit writes, is None or empty."""

    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)  # the whole document, as it is in the file
    parents: tuple[ParentEntry, ...] = ()  # the models from which this one was made, such as the base model and a teacher
    training: str = ""  # pre-training or fine-tuning
    run_id: str | None = None
    objective: str | None = None
    objective_settings: dict[str, Any] = field(default_factory=dict)  # the settings of the objective on which predictions depend
    data: dict[str, list[str]] = field(default_factory=dict)  # fingerprints of the data, by part (train, validation, ...)
    adapter: dict[str, Any] = field(default_factory=dict)  # of an adapter: `base`, the path and SHA-256 of its base model


def read_tfkit_json(folder: Path) -> ModelDocument:
    """Return the content of a checkpoint's tfkit.json; an empty ModelDocument without that file. Raises ModelError if it is invalid."""
    path = find_named(folder, NAME)
    if path is None:
        return ModelDocument()
    fields = read_object(path, _LIMIT)
    check_version(fields, path, SCHEMA_VERSION)
    lineage = fields["lineage"] if isinstance(fields.get("lineage"), dict) else {}
    training = lineage["training"] if isinstance(lineage.get("training"), str) else ""
    return fitting(ModelDocument, fields, fields=fields, parents=parent_entries(lineage.get("parents")) or (), training=training)


def write_tfkit_json(folder: Path, fields: Mapping[str, Any]) -> None:
    """Write the tfkit.json of a checkpoint. Raises OSError."""
    text = strict_json.dumps({"schema_version": SCHEMA_VERSION, **fields}, indent=2)
    (folder / NAME).write_text(text + "\n", encoding="utf-8")
