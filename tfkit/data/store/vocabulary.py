"""The tokenizer of a run, trained on the run's training text and stored in the cache.

A folder of the cache has tokenizer.json, and tokenizer_config.json with the settings; folders of earlier versions have more files.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfkit.data.columns.rows import Row, Source
from tfkit.data.store.folder_cache import build_and_open, cache_folder
from tfkit.data.store.hashes import digest
from tfkit.errors import DataError
from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.tokenizer import LIBRARY_VERSION, Tokenizer, train_tokenizer
from tfkit.tokenizer.tokenizer_files import CONFIG, TOKENIZER

# Versions by kind of tokenizer, 1 for others; part of a folder's name, a hash: raise one when the same text gives another tokenizer.
_TRAINER_VERSIONS = {"bpe_byte_fallback": 2}
_PIECE = 1 << 16  # the most characters of a piece: rows are sampled in pieces, so a long row over its whole length


def trained_tokenizer(sources: Sequence[Source], section: TokenizerSection, progress: Callable[[int], None] | None = None) -> Tokenizer:
    """Return the tokenizer that the recipe's `tokenizer` section describes, from the cache or trained on the sources. Raises DataError for
    a bad row that is not skipped, and if there is no text. `progress` is called with the number of bytes of each text that is read; an
    exception that it raises stops the training.
    """
    texts = "".join(source.fingerprint() for source in sources)
    version = _TRAINER_VERSIONS.get(section.kind, 1)
    folder = cache_folder() / "tokenizers" / digest(version, LIBRARY_VERSION, f"{section.model_dump_json()}{texts}")

    def build(path: Path) -> None:
        trained = train_tokenizer(section, _Sample(sources, section.sample_bytes), progress)
        (path / TOKENIZER).write_bytes(trained.tokenizer_json.encode())
        (path / CONFIG).write_text(json.dumps(dict(trained.settings)) + "\n", encoding="utf-8")

    def read(path: Path) -> Tokenizer:
        return Tokenizer.from_json((path / TOKENIZER).read_bytes().decode(), json.loads((path / CONFIG).read_bytes()))

    return build_and_open(folder, lambda path: (path / TOKENIZER).is_file(), build, read)[0]


@dataclass(frozen=True)
class _Sample:
    """The texts of `sample_texts`, as an iterable that can be read more than once."""

    sources: Sequence[Source]
    sample_bytes: int

    def __iter__(self) -> Iterator[str]:
        return sample_texts(self.sources, self.sample_bytes)


def sample_texts(sources: Sequence[Source], sample_bytes: int) -> Iterator[str]:
    """Yield the texts of the sources, or, if they have more than `sample_bytes` bytes, a sample of `sample_bytes`, spread evenly over them.

    All rows are read twice, since the bytes of text in a compressed file are not known in advance. Raises DataError if there is no text.
    """
    total = sum(len(row.text.encode()) for row in _all_rows(sources))
    if not total:
        raise DataError(
            f"{', '.join(source.describe() for source in sources)}: no text to train a tokenizer on; give a source that holds text"
        )
    if total <= sample_bytes:
        yield from (row.text for row in _all_rows(sources))
        return
    seen = taken = 0
    length = min(_PIECE, max(1, sample_bytes // 100))
    for piece in (row.text[start : start + length] for row in _all_rows(sources) for start in range(0, len(row.text), length)):
        content = piece.encode()
        if taken * total <= sample_bytes * seen:  # the sample has at most its fraction of the text so far: take this piece
            content_taken = content[: sample_bytes - taken]
            taken += len(content_taken)
            yield content_taken.decode(errors="ignore")
        seen += len(content)


def _all_rows(sources: Sequence[Source]) -> Iterator[Row]:
    for source in sources:
        yield from source.rows()
