"""Writers of a walk's rows as files of each format that tfkit reads, packed or not."""

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from walks.scenario import DataFile

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
