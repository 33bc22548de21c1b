"""A walk as data: the files that it reads, its recipes, and its commands. It is drawn as a whole before it runs, so that it can shrink."""

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
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

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "Walk":
        """Create from plain mappings and lists."""
        return cls(
            {name: DataFile(**file) for name, file in document.get("files", {}).items()},
            dict(document.get("recipes", {})),
            [Command(**command) for command in document["commands"]],
        )


def read_case(path: Path) -> dict[str, Any]:
    """Read a case of tests/walks/cases as plain mappings and lists."""
    document: dict[str, Any] = json.loads(json.dumps(YAML(typ="safe").load(path.read_text(encoding="utf-8"))))
    return document


# -- its rows as files of each format that tfkit reads, packed or not


Rows = list[dict[str, Any]]


def _csv(rows: Rows, header: bool, delimiter: str = ",") -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), delimiter=delimiter)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def _parquet(rows: Rows, header: bool) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def _conll(rows: Rows, header: bool) -> bytes:
    """Write a token and its tag per line, whatever the names of their columns."""
    sentences = [zip(*row.values(), strict=True) for row in rows]
    return "\n".join("".join("\t".join(line) + "\n" for line in lines) for lines in sentences).encode()


def _conllu(rows: Rows, header: bool) -> bytes:
    lines = []
    for row in rows:
        tokens, tags = row.values()
        lines += [f"{n}\t{token}\t_\t{tag}" + "\t_" * 6 for n, (token, tag) in enumerate(zip(tokens, tags, strict=True), 1)] + [""]
    return ("# a comment\n" + "\n".join(lines) + "\n").encode()


def _text(rows: Rows, header: bool) -> bytes:
    return "\n".join(str(value) for row in rows for value in row.values()).encode()


WRITERS: dict[str, Callable[[Rows, bool], bytes]] = {
    ".jsonl": lambda rows, _: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(),
    ".json": lambda rows, _: json.dumps(rows, indent=1).encode(),
    ".csv": _csv,
    ".tsv": partial(_csv, delimiter="\t"),
    ".parquet": _parquet,
    ".conll": _conll,
    ".conllu": _conllu,
    **dict.fromkeys((".txt", ".lst", ".py"), _text),
}


def write(folder: Path, name: str, file: DataFile) -> None:
    """Write one file; a name that ends in / is a folder with a text file for each row."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith("/"):
        path.mkdir()
        for number, row in enumerate(file.rows):
            (path / f"{number}.txt").write_bytes(_text([row], True))
        return
    packed = path.suffix if path.suffix in (".gz", ".zip") else ""
    inner = Path(path.stem) if packed else Path(path.name)
    content = WRITERS[inner.suffix](file.rows, file.header)
    if packed == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(inner.name, content)
    else:
        path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
