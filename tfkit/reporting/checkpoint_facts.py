"""The facts about the best or newest checkpoint of a run, read from the checkpoint's files."""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tfkit.errors import ModelError
from tfkit.run.best_json import best_checkpoint
from tfkit.run.checkpoints import newest_checkpoint
from tfkit.run.manifest import Entry, read_manifest
from tfkit.run.model_files import MIB, find_file, read_object
from tfkit.run.safetensors_header import read_header
from tfkit.run.tfkit_json import ModelDocument, read_tfkit_json


@dataclass(frozen=True)
class CheckpointFacts:
    """The facts about the best checkpoint of a run or, if that is unknown or incomplete, about the newest complete one."""

    path: Path
    config: Mapping[str, Any] = field(default_factory=dict)  # config.json
    document: ModelDocument = field(default_factory=ModelDocument)  # tfkit.json
    files: Mapping[str, Entry] = field(default_factory=dict)  # manifest.json: size and SHA-256 by name
    problems: tuple[str, ...] = ()  # why config.json or tfkit.json could not be read

    @property
    def is_adapter(self) -> bool:
        """Whether the checkpoint contains only an adapter, without the weights of its base model."""
        return "adapter_config.json" in self.files

    @property
    def weights(self) -> dict[str, Entry]:
        """The files of the model's weights, by name."""
        return {name: file for name, file in self.files.items() if name.endswith(".safetensors") and not name.startswith("training_state/")}

    @cached_property
    def parameters(self) -> int | None:
        """The number of parameters in `weights`, without an adapter's base model; None if a file is damaged, or if there is no file."""
        try:
            return sum(math.prod(one.shape) for name in self.weights for one in read_header(self.path / name).values()) or None
        except ModelError:
            return None


def read_checkpoint(root: Path) -> CheckpointFacts | None:
    """Return the facts about the best or else the newest checkpoint in `root`, a run's folder `checkpoints`; None if none is complete."""
    path = None
    with suppress(OSError):
        path = best_checkpoint(root) or newest_checkpoint(root)
    if path is None:
        return None
    problems: list[str] = []
    config: dict[str, Any] = {}
    document, files = ModelDocument(), {}
    try:
        config = read_object(path / "config.json", 16 * MIB) if find_file(path, "config.json") else {}
    except (ModelError, OSError) as error:
        problems.append(f"{path.name}: {error}")
    try:
        document = read_tfkit_json(path)
    except (ModelError, OSError) as error:
        problems.append(f"{path.name}: {error}")
    with suppress(ModelError, OSError):
        files = read_manifest(path)
    return CheckpointFacts(path, config, document, files, tuple(problems))
