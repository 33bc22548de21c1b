"""Token streams of made ids, for tests of rows cut from them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tiny_files import write_rows

from tfkit.data import Frame, TokenStream

CLS, SEP, PAD = 1, 2, 0
FRAME = Frame(CLS, SEP, PAD)


def stream(documents: list[list[list[int]]], name: str = "made") -> TokenStream:
    """Return a stream of documents of sentences of ids, in the layout of a tokenizer with BERT's template."""
    tokens: list[int] = []
    starts, sentences = [], []
    for document in documents:
        starts.append(len(tokens))
        tokens.append(CLS)
        for sentence in document:
            if sentence:
                sentences.append(len(tokens))
            tokens += sentence
        tokens.append(SEP)
    sizes = np.zeros(len(documents), np.int64)
    places = np.array([*starts, len(tokens)], np.int64)
    ids = np.array(tokens, np.uint16)
    return TokenStream(name, ids, places, sizes, 0, int(ids.max()), "", True, sentences=np.array(sentences, np.int64))


def counted(lengths: list[int], first: int = 0, name: str = "corpus") -> TokenStream:
    """Return a stream of documents of these lengths whose ids count on from `first`, and one closing id."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.arange(first, first + starts[-1] + 1).astype(np.uint32)
    return TokenStream(name, tokens, starts, np.zeros(len(lengths), np.int64), 0, int(tokens.max()), "", False)


def numbered(sizes: list[list[int]], first: int = 10) -> list[list[list[int]]]:
    """Return documents of sentences of these sizes, in which all ids differ."""
    ids = iter(range(first, 1 << 16))
    return [[[next(ids) for _ in range(size)] for size in document] for document in sizes]


def drawn(count: int, seed: int, most_sentences: int = 30, longest: int = 12) -> list[list[list[int]]]:
    """Return `count` documents of random sizes."""
    random = np.random.default_rng(seed)
    sizes = [random.integers(1, longest + 1, random.integers(1, most_sentences + 1)).tolist() for _ in range(count)]
    return numbered(sizes)


def write_texts(folder: Path, texts: Iterable[str]) -> Path:
    """Write rows.jsonl, a row for each text."""
    return write_rows(folder / "rows.jsonl", [{"text": text} for text in texts])
