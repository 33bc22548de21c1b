"""Writer of a token stream's folder: batches of text are tokenized on all threads, and their ids are appended to the file."""

from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from tfkit.data.columns.rows import Skipped, Source
from tfkit.data.order.sentences import split_sentences
from tfkit.data.store.folder_cache import write_index
from tfkit.data.store.hashes import text_hash
from tfkit.errors import DataError
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.pieces import BATCH, batches
from tfkit.tokenizer.text_bytes import opening_bytes

STREAM_VERSION = 2  # part of the fingerprint: raise it when the same text and tokenizer give another stream
SENTENCES_VERSION = 1  # the same for the splitting into sentences
_FILES = ("tokens.bin", "starts.bin", "text_bytes.bin")
_SENTENCES = "sentences.bin"
TEXTS = "texts.bin"  # a hash of each document's text


def write_stream(
    folder: Path, source: Source, tokenizer: Tokenizer, progress: Callable[[int], None] | None = None, sentences: bool = False
) -> None:
    """Fill an empty folder; the index is written last. Raises DataError if no row has text. Holds one batch, or one longer row, in memory.

    `sentences`: also write sentences.bin, and tokenize each sentence separately, as BERT's script does.
    """
    names = (*_FILES, _SENTENCES) if sentences else _FILES
    with ExitStack() as files:
        writer = _Writer(tokenizer, *(files.enter_context((folder / name).open("wb")) for name in names))
        hashes = files.enter_context((folder / TEXTS).open("wb"))
        skipped: dict[str, Skipped] = {}
        for texts in batches((row.text for row in source.rows(skipped) if row.text), len, BATCH):
            writer.append(texts)
            hashes.write(b"".join(map(text_hash, texts)))
            folder.stat()  # FileNotFoundError now, not after the last text, if the cache was deleted
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
        # If bos = eos, one id ends a document and begins the next; a template that ends with eos needs no other, either.
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
        if not self.tokenizer.prefix:  # without a prefix, a text's first id is no target
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
        """Return the ids of each text, and the positions in them at which a sentence with ids begins."""
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
        """Write the start that a further document would have, and the id that ends the last document, if it is not yet written."""
        tokens, starts, _ = self.files
        starts.write(np.array([self.position], dtype="<i8").tobytes())
        if not self.separator:
            tokens.write(np.array(self.closing, dtype=self.dtype).tobytes())
            self.position += len(self.closing)
            self.max_id = max([self.max_id, *self.closing])
