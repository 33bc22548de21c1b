"""A walk as data: the files that it reads, its recipes, and its commands. It is drawn as a whole before it runs, so that it can shrink."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

Recipe = dict[str, Any]


@dataclass
class DataFile:
    """Rows by column. The suffixes of the file's name are their format; `header`: whether a table has a header line."""

    rows: list[dict[str, Any]]
    header: bool = True


@dataclass
class Command:
    """The words after `tfkit`, and a signal that the process gets as its n-th micro-batch begins.

    A command that trains and is stopped is followed by one that resumes it. `ends`: further ids that end a text, which the checkpoints of
    its run state afterwards, as those of a chat model do. `cache_lost`: the seconds after which another process deletes the cache.
    `stranger`: another user gives it, who has allowed no code of the runs.
    """

    words: list[str]
    signal: str | None = None
    micro_batch: int = 0
    ends: list[int] = field(default_factory=list)
    cache_lost: float | None = None
    stranger: bool = False

    @property
    def name(self) -> str:
        """The command of tfkit."""
        return self.words[0]

    @property
    def run(self) -> str | None:
        """The run folder that it creates."""
        return self.words[self.words.index("--run") + 1] if "--run" in self.words else None

    def __str__(self) -> str:
        struck = f"   # {self.signal} at micro-batch {self.micro_batch}" if self.signal else ""
        return "tfkit " + " ".join(word if word.replace("-", "").replace(".", "").isalnum() else repr(word) for word in self.words) + struck


@dataclass
class Walk:
    """Files, recipes and commands; paths are relative to the folder in which it runs."""

    files: dict[str, DataFile] = field(default_factory=dict)
    recipes: dict[str, Recipe] = field(default_factory=dict)
    commands: list[Command] = field(default_factory=list)

    def to_document(self) -> dict[str, Any]:
        """Convert to plain mappings and lists."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "Walk":
        """Create from plain mappings and lists."""
        return cls(
            {name: DataFile(**file) for name, file in document.get("files", {}).items()},
            dict(document.get("recipes", {})),
            [Command(**command) for command in document["commands"]],
        )

    def copy(self) -> "Walk":
        """Return a deep copy."""
        return Walk.from_document(json.loads(json.dumps(self.to_document())))


def read_case(path: Path) -> dict[str, Any]:
    """Read a case of tests/walks/cases as plain mappings and lists."""
    document: dict[str, Any] = json.loads(json.dumps(YAML(typ="safe").load(path.read_text(encoding="utf-8"))))
    return document
