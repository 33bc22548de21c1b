"""The suffixes of data files: the format of each, and the suffixes that are read from a folder or an archive."""

import re
from collections.abc import Sequence
from pathlib import PurePath

from tfkit.recipe.column_forms import LANGUAGES

# The suffixes of files with several rows, and their formats. Any other file is one row, unless it is an archive or its lines show a layout.
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
    ".iob2": "conll",
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
CODE_SUFFIXES = TEXT_SUFFIXES - {".txt", ".text"}
_MAX_NAMES = 3  # the largest number of names that a message lists
KINDS = "text, jsonl, json, csv, tsv, parquet or CoNLL"  # the formats of a folder's data, for messages

_COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".lzma": "xz", ".zst": "zstd"}
_TARS = {".tgz": ".tar.gz", ".tbz": ".tar.bz2", ".tbz2": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst"}

# If a file's name contains one of these words, the file holds one column of the rows: that to which the word is mapped here.
_COLUMNS = {
    **dict.fromkeys(("text", "texts", "sentence", "sentences"), "text"),
    **dict.fromkeys(("label", "labels"), "label"),
    **dict.fromkeys(("src", "source", "sources"), "source"),
    **dict.fromkeys(("tgt", "trg", "target", "targets"), "target"),
}

# The slot filling files of ATIS and SNIPS: line n of one file has the words of sentence n, and line n of the other file their tags.
_SEQUENCES = {"seq.in": "tokens", "seq.out": "tags"}

# Suffixes of files that are read from a folder or an archive, without .lst, since a list of labels or names often accompanies the data.
_SEARCHED = TEXT_SUFFIXES | (FORMAT_OF.keys() - {".lst"})


def compression_of(path: PurePath) -> str:
    """Return the compression of a file by its suffix; empty for a plain file."""
    return _COMPRESSIONS.get(_full(path).suffix, "")


def suffix_of(path: PurePath) -> str:
    """Return the suffix of the format, in lower case: `.jsonl` for `a.jsonl.gz`, `.tar` for `a.tgz`."""
    full = _full(path)
    return PurePath(full.stem).suffix if full.suffix in _COMPRESSIONS else full.suffix


def stem_of(path: PurePath) -> str:
    """Return the name of a file without the suffixes of its format and its compression: `a` for `a.jsonl.gz`."""
    stem = PurePath(path.stem) if path.suffix.lower() in _COMPRESSIONS else PurePath(path.name)
    return stem.stem


def _full(path: PurePath) -> PurePath:
    """Return the name in lower case, with the full suffixes of a compressed tar archive (`.tar.gz` for `.tgz`)."""
    name = PurePath(path.name.lower())
    return name.with_suffix(_TARS[name.suffix]) if name.suffix in _TARS else name


def column_in(path: PurePath) -> tuple[str, str] | None:
    """Return a file's name with * in place of the last word that names a column, and that column: `train_*.txt` and `label` for
    `train_labels.txt`, `train.*` and `de` for `train.de.gz`. None if no word names one, or for archives, READMEs and suffixes in FORMAT_OF.
    """
    if suffix_of(path) in FORMAT_OF or is_archive(path) or is_readme(path):
        return None
    if (name := path.name.lower()) in _SEQUENCES:
        return "*", _SEQUENCES[name]
    words = re.split(r"([._-])", path.stem.lower() if compression_of(path) else path.name.lower())
    for index in range(len(words) - 1, -1, -1):
        if words[index] in _COLUMNS or words[index] in LANGUAGES:
            return "".join([*words[:index], "*", *words[index + 1 :]]), _COLUMNS.get(words[index], words[index])
    return None


def is_archive(path: PurePath) -> bool:
    """Whether a file is an archive of files, by its suffix."""
    return suffix_of(path) in (".zip", ".tar")


def is_searched(path: PurePath) -> bool:
    """Whether a file in a folder or an archive is read as data; `path` is relative to the folder or archive."""
    return suffix_of(path) in _SEARCHED and not is_hidden(path)


def is_readme(path: PurePath) -> bool:
    """Whether a file only describes the data in its folder: a README or a licence."""
    return re.match(r"(readme|licen[sc]e|copying)\b", path.name.lower()) is not None


def is_hidden(path: PurePath) -> bool:
    """Whether a part of the path begins with a dot, or is macOS's metadata folder."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def list_names(items: Sequence[PurePath | str]) -> str:
    """Return the names of the first three files or keys, and how many more there are."""
    names = [item if isinstance(item, str) else item.name for item in items[:_MAX_NAMES]]
    return ", ".join(names) + (f" and {len(items) - _MAX_NAMES} more" if len(items) > _MAX_NAMES else "")
