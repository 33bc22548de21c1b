"""Writes the folder of a token stream: batches of text are tokenized by all threads at once, and their ids appended to the file."""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np

from tfkit.data.rows import Source
from tfkit.errors import DataError
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.pieces import BATCH, batches

STREAM_VERSION = 1  # part of the fingerprint: raise it when the same text and tokenizer give another stream
INDEX = "index.json"
_FILES = ("tokens.bin", "starts.bin", "text_bytes.bin")


def write_stream(folder: Path, source: Source, tokenizer: Tokenizer, progress: Callable[[int], None] | None = None) -> None:
    """Fill an empty folder; the index is written last. Raises DataError if no row has text. Memory: one batch, or one row if longer."""
    with ExitStack() as files:
        tokens, starts, text_bytes = (files.enter_context((folder / name).open("wb")) for name in _FILES)
        writer = _Writer(tokenizer, tokens, starts, text_bytes)
        skipped: Counter[str] = Counter()
        for texts in batches((row.text for row in source.rows(skipped) if row.text), len, BATCH):
            writer.append(texts)
            if progress is not None:
                progress(writer.last_bytes)
        if not writer.documents:
            raise DataError(f"{source.describe()}: no text in any row; give a source that holds text, or a larger fraction of it")
        writer.finish()
        if not writer.position:
            raise DataError(f"{source.describe()}: the tokenizer gives no token for any text; use the tokenizer that belongs to the model")
    index = {
        "version": STREAM_VERSION,
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
        "files": {name: (folder / name).stat().st_size for name in _FILES},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


class _Writer:
    """Where the stream stands while it grows."""

    def __init__(self, tokenizer: Tokenizer, tokens: IO[bytes], starts: IO[bytes], text_bytes: IO[bytes]):
        self.tokenizer = tokenizer
        self.files = tokens, starts, text_bytes
        self.dtype = "<u2" if tokenizer.size <= 1 << 16 else "<u4"
        # An id that ends and begins (bos = eos) stands once; a template that ends with eos needs none either.
        eos = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        self.closing = [] if tokenizer.suffix[-1:] == tuple(eos) else eos
        self.separator = [] if tokenizer.prefix[:1] == tuple(eos) else self.closing
        self.position = self.documents = self.all_bytes = self.last_bytes = 0
        self.max_id = 0

    def append(self, texts: list[str]) -> None:
        """Add a document for each text."""
        documents = self.tokenizer.encode_arrays(texts)
        sizes = np.fromiter((len(text.encode()) for text in texts), dtype="<i8", count=len(texts))
        scored = sizes
        if not self.tokenizer.prefix:  # then a text's first id is no target
            scored = sizes - [self.tokenizer.opening_bytes(text, ids) for text, ids in zip(texts, documents, strict=True)]
        separator = np.array(self.separator, self.dtype)
        ids = np.concatenate([part for document in documents for part in (document, separator)]).astype(self.dtype)
        lengths = np.fromiter(map(len, documents), dtype="<i8", count=len(documents)) + len(separator)
        tokens, starts, text_bytes = self.files
        tokens.write(ids.tobytes())
        starts.write((self.position + np.cumsum(lengths) - lengths).astype("<i8").tobytes())
        text_bytes.write(scored.astype("<i8").tobytes())
        self.position += len(ids)
        self.documents += len(texts)
        self.last_bytes = int(sizes.sum())
        self.all_bytes += self.last_bytes
        self.max_id = max(self.max_id, int(ids.max(initial=0)))

    def finish(self) -> None:
        """End the last document, so that its end has a target; the last of the starts stands where another document would."""
        tokens, starts, _ = self.files
        starts.write(np.array([self.position], dtype="<i8").tobytes())
        if not self.separator:
            tokens.write(np.array(self.closing, dtype=self.dtype).tobytes())
            self.position += len(self.closing)
            self.max_id = max([self.max_id, *self.closing])
