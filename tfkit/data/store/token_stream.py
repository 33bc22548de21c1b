"""The memory-mapped stream of a source's token ids, with document boundaries, built once, in constant memory, and cached.

    document 0          document 1          last document
    bos a b c           bos d e        ...  bos z eos       bos = eos: one id ends a document and begins the next
    a b c eos           d e eos        ...  z eos           else: each document ends with eos, if there is one

A folder of the cache has tokens.bin (uint16 or uint32), starts.bin and text_bytes.bin (int64), texts.bin (a hash of each text, uint64),
optionally sentences.bin (int64), all little-endian; index.json; and hashes.json, with hashes of the blocks of these files.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tfkit.data.columns.rows import Skipped, Source
from tfkit.data.store.folder_cache import cache_folder, indexed_folder, write_index
from tfkit.data.store.hashes import HashedArray, digest, text_hash
from tfkit.errors import DataError, ModelError
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.pieces import BATCH, batches
from tfkit.tokenizer.tokenizer import opening_bytes

STREAM_VERSION = 2  # part of the fingerprint: raise it when the same text and tokenizer give another stream
SENTENCES_VERSION = 1  # part of the fingerprint of streams with sentences: raise it when the same text is split into other sentences
_FILES = ("tokens.bin", "starts.bin", "text_bytes.bin")
_SENTENCES = "sentences.bin"
TEXTS = "texts.bin"  # a hash of each document's text
_SENTENCE_END = re.compile(r"""\S(?=[^\S\n]*\n)|(?<![.!?…])[.!?…]+["'”’»)\]]*(?=\s+[^a-z\s])|[。！？][」』”’）]*""")


@dataclass(frozen=True)
class TokenStream:
    """The ids of all documents of a source, concatenated. Each row with text is a document."""

    name: str  # the name of the source
    tokens: NDArray[Any] | HashedArray  # (tokens,) uint16 or uint32, memory-mapped
    starts: NDArray[np.int64]  # (documents + 1,) where each document begins in `tokens`; last, where one more would begin
    text_bytes: NDArray[np.int64]  # (documents,) UTF-8 bytes of each text, without those of its first id if no id precedes it
    separator: int  # number of ids appended to each document: 1 (eos); 0 if the template or the next bos ends it, or there is no eos
    max_id: int  # the largest id
    fingerprint: str
    cached: bool  # whether the stream was already in the cache
    skipped: Mapping[str, Skipped] = field(default_factory=dict)  # skipped rows, by kind
    sentences: NDArray[np.int64] | None = None  # (sentences,) where in `tokens` each sentence that has ids begins; None: not stored
    texts: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))  # (documents,) a hash of each document's text

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.text_bytes)

    def document(self, i: int) -> NDArray[Any]:
        """Return the ids (T,) of document i, including the ids of the tokenizer's template, but without an appended eos."""
        ids: NDArray[Any] = self.tokens[self.starts[i] : self.starts[i + 1] - self.separator]
        return ids

    def check_targets(self) -> None:
        """Raise DataError if no document has a target (an id that follows another)."""
        if not (np.diff(self.starts) - self.separator > 1).any():
            raise DataError(
                f"{self.name}: nothing to score: of {len(self):,} texts none has a token that follows another; "
                "give longer texts, or hold out a larger fraction"
            )


def check_ids(name: str, max_id: int, vocab_size: int) -> None:
    """Raise ModelError if a source has an id outside the model's vocabulary, for which a GPU would only report a device-side assertion."""
    if max_id >= vocab_size:
        raise ModelError(
            f"{name}: the tokenizer gives ids up to {max_id}, the model's vocabulary ends at {vocab_size - 1}; "
            f"use the model's own tokenizer, or set model.vocab_size to at least {max_id + 1}"
        )


def token_stream(
    source: Source, tokenizer: Tokenizer, progress: Callable[[int], None] | None = None, *, sentences: bool = False
) -> TokenStream:
    """Return the stream of a source from the cache, or build it there. Raises DataError for a bad row that is not skipped, and if there is
    no text.

    `progress` is called with the number of bytes of text tokenized since its last call; an exception that it raises stops the building.
    `sentences`: store the positions of sentences, too; such streams are cached separately.
    """
    versions = [SENTENCES_VERSION] if sentences else []
    fingerprint = digest(STREAM_VERSION, source.fingerprint(), tokenizer.fingerprint(), *versions)
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
        sentences=files.verified_array(_SENTENCES, "<i8") if index["files"].get(_SENTENCES) else None,
    )


def write_stream(
    folder: Path, source: Source, tokenizer: Tokenizer, progress: Callable[[int], None] | None = None, sentences: bool = False
) -> None:
    """Write the stream into an empty folder; the index is written last. Raises DataError if no text has a token. Memory holds one batch
    of texts at a time, which is tokenized on all threads, or one text that is longer than a batch.

    `sentences`: tokenize each sentence separately, as BERT's pretraining script does, and write sentences.bin.
    """
    names = (*_FILES, _SENTENCES) if sentences else _FILES
    with ExitStack() as files:
        writer = _Writer(tokenizer, *(files.enter_context((folder / name).open("wb")) for name in names))
        hashes = files.enter_context((folder / TEXTS).open("wb"))
        skipped: dict[str, Skipped] = {}
        for texts in batches((row.text for row in source.rows(skipped) if row.text), len, BATCH):
            writer.append(texts)
            hashes.write(b"".join(map(text_hash, texts)))
            folder.stat()  # if the cache was deleted, raises FileNotFoundError now rather than after the last text
            if progress is not None:
                progress(writer.last_bytes)
        if not writer.documents:
            raise DataError(f"{source.describe()}: no text in any row; give a source that holds text, or a larger fraction of it")
        writer.finish()
        if not writer.position:
            raise DataError(f"{source.describe()}: the tokenizer gives no token for any text; use the tokenizer that belongs to the model")
    facts = {
        "source": source.name,
        "description": source.describe(),
        "tokenizer": tokenizer.fingerprint(),
        "dtype": writer.dtype,
        "tokens": writer.position,
        "documents": writer.documents,
        "bytes": writer.all_bytes,
        "separator": len(writer.separator),
        "max_id": writer.max_id,
        "skipped": skipped,
    }
    write_index(folder, STREAM_VERSION, facts, (*names, TEXTS))


class _Writer:
    """The open files and the totals of a stream that is being written."""

    def __init__(
        self, tokenizer: Tokenizer, tokens: IO[bytes], starts: IO[bytes], text_bytes: IO[bytes], sentences: IO[bytes] | None = None
    ):
        self.tokenizer = tokenizer
        self.files = tokens, starts, text_bytes
        self.sentences = sentences
        self.dtype = "<u2" if tokenizer.size <= 1 << 16 else "<u4"
        # If the template ends with eos, no eos is appended. If bos = eos, only the last document gets one, since a bos ends the others.
        eos = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        self.closing = [] if tokenizer.suffix[-1:] == tuple(eos) else eos
        self.separator = [] if tokenizer.prefix[:1] == tuple(eos) else self.closing
        self.position = self.documents = self.all_bytes = self.last_bytes = 0
        self.max_id = 0

    def append(self, texts: list[str]) -> None:
        """Write each text as a document."""
        documents, sentences = self._encode_sentences(texts) if self.sentences is not None else (self.tokenizer.encode_arrays(texts), [])
        sizes = np.fromiter((len(text.encode()) for text in texts), dtype="<i8", count=len(texts))
        scored = sizes
        if not self.tokenizer.prefix:  # no id comes before a text's first id, which is therefore no target
            scored = sizes - [opening_bytes(self.tokenizer, text, ids) for text, ids in zip(texts, documents, strict=True)]
        separator = np.array(self.separator, self.dtype)
        ids = np.concatenate([part for document in documents for part in (document, separator)]).astype(self.dtype)
        lengths = np.fromiter(map(len, documents), dtype="<i8", count=len(documents)) + len(separator)
        tokens, starts, text_bytes = self.files
        tokens.write(ids.tobytes())
        begins = (self.position + np.cumsum(lengths) - lengths).astype("<i8")
        starts.write(begins.tobytes())
        if self.sentences is not None:
            for begin, offsets in zip(begins, sentences, strict=True):
                self.sentences.write((begin + offsets).tobytes())
        text_bytes.write(scored.astype("<i8").tobytes())
        self.position += len(ids)
        self.documents += len(texts)
        self.last_bytes = int(sizes.sum())
        self.all_bytes += self.last_bytes
        self.max_id = max(self.max_id, int(ids.max(initial=0)))

    def _encode_sentences(self, texts: list[str]) -> tuple[list[NDArray[np.uint32]], list[NDArray[np.int64]]]:
        """Return the ids of each text, and the positions in them at which its sentences begin; sentences without ids are left out."""
        split = [split_sentences(text) for text in texts]
        encoded = iter(self.tokenizer.encode_bare([sentence for sentences in split for sentence in sentences]))
        prefix, suffix = (np.array(ids, np.uint32) for ids in (self.tokenizer.prefix, self.tokenizer.suffix))
        documents, offsets = [], []
        for sentences in split:
            parts = list(islice(encoded, len(sentences)))
            lengths = np.array([len(part) for part in parts], "<i8")
            offsets.append((len(prefix) + np.cumsum(lengths) - lengths)[lengths > 0])
            documents.append(np.concatenate([prefix, *parts, suffix]))
        return documents, offsets

    def finish(self) -> None:
        """Write the position at which a next document would begin, and the id that ends the last document if it is not yet written."""
        tokens, starts, _ = self.files
        starts.write(np.array([self.position], dtype="<i8").tobytes())
        if not self.separator:
            tokens.write(np.array(self.closing, dtype=self.dtype).tobytes())
            self.position += len(self.closing)
            self.max_id = max([self.max_id, *self.closing])


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text for next sentence prediction, each with the white space before it. Joined, they are the text.

    A sentence ends at the end of its line (of code, too), after Chinese or Japanese final punctuation, or after other final punctuation if
    white space and then no letter from a to z follow (not in `e.g. this`). Texts are cut before white space or after Chinese or Japanese
    punctuation, where BERT's tokenizer begins a new word anyway.
    """
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    starts = [0, *(end for end in ends if end < len(text))]
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
