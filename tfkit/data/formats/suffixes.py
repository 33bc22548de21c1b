"""The suffixes of data files: the format of each, and the suffixes that are read from a folder or an archive."""

import re
from pathlib import PurePath

# The formats of rows with columns, and of lines. A file with another suffix is one text.
FORMAT_OF = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".conll": "conll",
    ".bio": "conll",
    ".iob": "conll",
    ".conllu": "conllu",
    ".lst": "lines",
}
TEXT_SUFFIXES = frozenset(
    f".{suffix}"
    for line in (
        "txt text md rst tex adoc org srt html htm css scss xml yaml yml toml ini cfg sql proto cmake",
        "py pyi c h cc cpp cxx hpp hh m mm cs java kt scala groovy go rs swift dart v sv vhd asm s f f90 f95 pas",
        "js jsx ts tsx vue sh bash zsh ps1 r jl lua pl pm php rb tcl hs ml mli ex exs erl clj lisp el scm",
    )
    for suffix in line.split()
)
KINDS = "text, jsonl, json, csv, tsv, parquet or CoNLL"  # for messages

# Not .lst: a list of labels or names often accompanies the data.
_SEARCHED = TEXT_SUFFIXES | (FORMAT_OF.keys() - {".lst"})


def suffix_of(path: PurePath) -> str:
    """Return the suffix of the format, in lower case: `.jsonl` for `a.jsonl.gz`."""
    return PurePath(path.stem).suffix.lower() if is_gzip(path) else path.suffix.lower()


def is_gzip(path: PurePath) -> bool:
    """Whether a file is a gzip file, by its suffix."""
    return path.suffix.lower() == ".gz"


def is_zip(path: PurePath) -> bool:
    """Whether a file is a zip archive, by its suffix."""
    return path.suffix.lower() == ".zip"


def is_searched(path: PurePath) -> bool:
    """Whether a file in a folder or an archive is read as data; the path is relative to it."""
    return suffix_of(path) in _SEARCHED and not is_hidden(path)


def is_readme(path: PurePath) -> bool:
    """Whether a file describes the data beside it: a README or a licence."""
    return re.match(r"(readme|licen[sc]e|copying)\b", path.name.lower()) is not None


def is_hidden(path: PurePath) -> bool:
    """Whether a part of the path begins with a dot, or is macOS's metadata folder."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
