"""One memory-mapped stream of ids for a source and a tokenizer, with document boundaries; built once, in constant memory, and cached.

    document 0          document 1                the end
    bos a b c           bos d e        ...  bos z eos       bos = eos: one id both ends and begins
    a b c eos           d e eos        ...  z eos           no bos, or another: eos is appended to each

Folder of the cache: tokens.bin (uint16 or uint32), starts.bin, text_bytes.bin (int64), texts.bin (a hash of each text, uint64),
where asked for sentences.bin (int64), and index.json; all little-endian. hashes.json has a hash of each block of them.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfkit.data.columns.rows import Skipped, Source, describe_skipped
from tfkit.data.store.folder_cache import cache_folder
from tfkit.data.store.folder_index import indexed_folder
from tfkit.data.store.hashes import HashedArray, HashedFiles
from tfkit.data.store.token_writer import SENTENCES_VERSION, STREAM_VERSION, TEXTS, write_stream
from tfkit.errors import DataError, ModelError
from tfkit.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenStream:
    """All documents of a source as ids, one after the other. A row without text is no document."""

    name: str  # of the source
    tokens: NDArray[Any] | HashedArray  # (tokens,) uint16 or uint32, memory-mapped
    starts: NDArray[np.int64]  # (documents + 1,) where each document begins, and where the next one would
    text_bytes: NDArray[np.int64]  # (documents,) UTF-8 bytes of the ids that are targets when the document is scored on its own
    separator: int  # ids appended to each document: 1 where eos is, 0 where the next document's first id ends it
    max_id: int
    fingerprint: str
    cached: bool  # whether it was in the cache
    skipped: Mapping[str, Skipped] = field(default_factory=dict)  # bad rows that were left out, by kind
    sentences: NDArray[np.int64] | None = None  # where each sentence begins, those without ids left out; None: not asked for
    texts: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))  # (documents,) a hash of each one's text

    def __len__(self) -> int:
        """Documents."""
        return len(self.text_bytes)

    def document(self, i: int) -> NDArray[Any]:
        """Return the ids of document i as the tokenizer's template makes them, without the appended eos."""
        ids: NDArray[Any] = self.tokens[self.starts[i] : self.starts[i + 1] - self.separator]
        return ids

    def describe_skipped(self) -> str:
        """Describe the bad rows that were left out; empty if there were none."""
        return describe_skipped(self.name, self.skipped)

    def check_targets(self) -> None:
        """Raise DataError if no document has an id that follows another: then there is nothing to score."""
        if not (np.diff(self.starts) - self.separator > 1).any():
            raise DataError(
                f"{self.name}: nothing to score: of {len(self):,} texts none has a token that follows another; "
                "give longer texts, or hold out a larger fraction"
            )

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise ModelError if an id has no row in an embedding of `vocab_size` rows."""
        check_ids(self.name, self.max_id, vocab_size)


def check_ids(name: str, max_id: int, vocab_size: int) -> None:
    """Raise ModelError if a source has an id beyond the model's vocabulary; without this a GPU stops with an assert."""
    if max_id >= vocab_size:
        raise ModelError(
            f"{name}: the tokenizer gives ids up to {max_id}, the model's vocabulary ends at {vocab_size - 1}; "
            f"use the model's own tokenizer, or set model.vocab_size to at least {max_id + 1}"
        )


def token_stream(
    source: Source, tokenizer: Tokenizer, progress: Callable[[int], None] | None = None, *, sentences: bool = False
) -> TokenStream:
    """Return the stream of a source, from the cache or built there, whole or not at all.

    `progress` is called with the bytes of text done since its last call, and may raise to stop. `sentences`: with the places where they
    begin; that is a stream of its own in the cache. Raises DataError on bad or no rows.
    """
    content = f"{STREAM_VERSION}\0{source.fingerprint()}\0{tokenizer.fingerprint()}" + (f"\0{SENTENCES_VERSION}" if sentences else "")
    fingerprint = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
    folder = cache_folder() / "streams" / fingerprint
    index, built = indexed_folder(folder, STREAM_VERSION, lambda path: write_stream(path, source, tokenizer, progress, sentences))
    files = HashedFiles(folder)
    return TokenStream(
        name=index["source"],
        tokens=files.array("tokens.bin", index["dtype"]),
        starts=files.compared("starts.bin", "<i8"),
        text_bytes=files.compared("text_bytes.bin", "<i8"),
        separator=index["separator"],
        max_id=index["max_id"],
        fingerprint=fingerprint,
        cached=not built,
        texts=files.compared(TEXTS, "<u8"),
        skipped={kind: Skipped(*found) for kind, found in index["skipped"].items()},
        sentences=files.compared("sentences.bin", "<i8") if index["files"].get("sentences.bin") else None,
    )
