"""The memory-mapped stream of a source's token ids, with document boundaries; built once, in constant memory, and cached.

    document 0          document 1          last document
    bos a b c           bos d e        ...  bos z eos       bos = eos: one id ends a document and begins the next
    a b c eos           d e eos        ...  z eos           no bos, or another id: eos is appended to each document

Folder of the cache: tokens.bin (uint16 or uint32), starts.bin, text_bytes.bin (int64), texts.bin (a hash of each text, uint64),
optionally sentences.bin (int64), and index.json; all little-endian. hashes.json has the hashes of their blocks.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfkit.data.columns.rows import Skipped, Source, describe_skipped
from tfkit.data.store.folder_cache import cache_folder, indexed_folder
from tfkit.data.store.hashes import HashedArray
from tfkit.data.store.token_writer import SENTENCES_VERSION, STREAM_VERSION, TEXTS, write_stream
from tfkit.errors import DataError, ModelError
from tfkit.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenStream:
    """The ids of all documents of a source, concatenated. A row without text is no document."""

    name: str  # the name of the source
    tokens: NDArray[Any] | HashedArray  # (tokens,) uint16 or uint32, memory-mapped
    starts: NDArray[np.int64]  # (documents + 1,) where each document begins, and where another one would
    text_bytes: NDArray[np.int64]  # (documents,) UTF-8 bytes covered by the ids that are targets if the document is scored alone
    separator: int  # ids appended to each document: 1 (eos), or 0 if the next document's first id ends it
    max_id: int
    fingerprint: str
    cached: bool  # whether it was in the cache already
    skipped: Mapping[str, Skipped] = field(default_factory=dict)  # skipped rows, by kind
    sentences: NDArray[np.int64] | None = None  # (sentences,) where each sentence with ids begins; None: not stored
    texts: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))  # (documents,) a hash of each document's text

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.text_bytes)

    def document(self, i: int) -> NDArray[Any]:
        """Return the ids (T,) of document i, including the ids of the tokenizer's template, but without an appended eos."""
        ids: NDArray[Any] = self.tokens[self.starts[i] : self.starts[i + 1] - self.separator]
        return ids

    def describe_skipped(self) -> str:
        """Describe the skipped rows; empty if there are none."""
        return describe_skipped(self.name, self.skipped)

    def check_targets(self) -> None:
        """Raise DataError if no document has a target, an id that follows another."""
        if not (np.diff(self.starts) - self.separator > 1).any():
            raise DataError(
                f"{self.name}: nothing to score: of {len(self):,} texts none has a token that follows another; "
                "give longer texts, or hold out a larger fraction"
            )

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise ModelError if an id is outside an embedding of `vocab_size` rows."""
        check_ids(self.name, self.max_id, vocab_size)


def check_ids(name: str, max_id: int, vocab_size: int) -> None:
    """Raise ModelError if a source has an id outside the model's vocabulary, with which a GPU would stop with a device assert."""
    if max_id >= vocab_size:
        raise ModelError(
            f"{name}: the tokenizer gives ids up to {max_id}, the model's vocabulary ends at {vocab_size - 1}; "
            f"use the model's own tokenizer, or set model.vocab_size to at least {max_id + 1}"
        )


def token_stream(
    source: Source, tokenizer: Tokenizer, progress: Callable[[int], None] | None = None, *, sentences: bool = False
) -> TokenStream:
    """Return the stream of a source, built in the cache if it lacks it. Raises DataError for a bad row that is not skipped, or no text.

    `progress` is called with the bytes of text tokenized since its last call, and may raise to stop. `sentences`: store the positions of
    sentences, too; the cache has such streams separately.
    """
    content = f"{STREAM_VERSION}\0{source.fingerprint()}\0{tokenizer.fingerprint()}" + (f"\0{SENTENCES_VERSION}" if sentences else "")
    fingerprint = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
    folder = cache_folder() / "streams" / fingerprint
    index, files, built = indexed_folder(folder, STREAM_VERSION, lambda path: write_stream(path, source, tokenizer, progress, sentences))
    return TokenStream(
        name=source.name,
        tokens=files.array("tokens.bin", index["dtype"]),
        starts=files.verified_array("starts.bin", "<i8"),
        text_bytes=files.verified_array("text_bytes.bin", "<i8"),
        separator=index["separator"],
        max_id=index["max_id"],
        fingerprint=fingerprint,
        cached=not built,
        texts=files.verified_array(TEXTS, "<u8"),
        skipped={kind: Skipped(*count) for kind, count in index["skipped"].items()},
        sentences=files.verified_array("sentences.bin", "<i8") if index["files"].get("sentences.bin") else None,
    )
