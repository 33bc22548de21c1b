"""The text on which a tokenizer is trained, split so that training takes bounded memory and time, and has a reproducible result."""

import re
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import accumulate

from tokenizers import Tokenizer as Backend
from tokenizers import normalizers, pre_tokenizers, trainers

from tfkit.tokenizer.interruptible import interruptible
from tfkit.tokenizer.pieces import pieces

_COVERAGE = 0.9999  # of the characters in the text, as `character_coverage` in SentencePiece (default 0.9995, Llama 0.99995)
_GAP = "\0"  # in place of a character without an entry


class Corpus:
    """Texts that are read more than once. `progress` is called with the bytes of each text, in another thread, and may raise to stop."""

    def __init__(self, texts: Iterable[str], progress: Callable[[int], None] | None = None):
        self._texts, self._progress = texts, progress

    def alphabet(
        self, most: int, normalizer: normalizers.Normalizer | None = None, excluded: Callable[[str], bool] = str.isspace
    ) -> list[str]:
        """Return the most frequent characters, which make up 99.99% of the normalized texts; at most `most`, sorted by code point.

        Rarer characters would take entries that parts of words need. `excluded` characters do not count as text, such as white space for
        kinds that have none inside words.
        """
        counts: Counter[str] = Counter()
        for text in self._texts:
            for piece in pieces(text):
                counts.update(piece if normalizer is None else normalizer.normalize_str(piece))
        ranked = sorted((c for c in counts if c != _GAP and not excluded(c)), key=lambda c: (-counts[c], c))
        covered = accumulate((counts[character] for character in ranked), initial=0)
        enough = _COVERAGE * sum(counts[character] for character in ranked)
        return sorted(character for character, before in zip(ranked[:most], covered, strict=False) if before < enough)

    def train(
        self,
        backend: Backend,
        trainer: trainers.Trainer,
        normalizer: normalizers.Normalizer | None = None,
        alphabet: Collection[str] | None = None,
    ) -> None:
        """Train the backend on the normalized texts. With an alphabet, characters that are not in it separate words."""
        others = None
        if alphabet is not None:
            others = re.compile(f"[^{''.join(map(re.escape, alphabet))}]" if alphabet else "(?s:.)")
            backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(_GAP, "removed"), backend.pre_tokenizer])

        def parts(abandoned: threading.Event) -> Iterator[str]:
            for part in self._parts(abandoned):
                normalized = part if normalizer is None else normalizer.normalize_str(part)
                yield normalized if others is None else others.sub(_GAP, normalized)

        interruptible(lambda abandoned: backend.train_from_iterator(parts(abandoned), trainer))

    def _parts(self, abandoned: threading.Event) -> Iterator[str]:
        """Yield the texts in pieces with the same words (pieces.py), except very long words: the trainer holds 200 bytes a word."""
        for text in self._texts:
            for piece in pieces(text):
                if abandoned.is_set():
                    raise InterruptedError("the training of this tokenizer was abandoned")
                yield from _cut_long_words(piece)
            if self._progress is not None:
                self._progress(len(text.encode()))


# Training takes quadratic time in the length of a word: it would not finish for a megabyte of letters without a space. Runs of one class
# of characters that are longer than any word of a language are therefore cut.
_MAX_WORD = 1024  # characters
_CLASSES = (r"[^\W\d_]", r"\d", r"\s", r"[^\w\s]|_")
_LONG_WORD, _HALF_WORD = (re.compile("|".join(f"(?:{kind}){{{length}}}" for kind in _CLASSES)) for length in (_MAX_WORD, _MAX_WORD // 2))


def _cut_long_words(piece: str) -> Iterator[str]:
    start = 0
    if any(_HALF_WORD.match(piece, half) for half in range(0, len(piece), _MAX_WORD // 2)):  # a fast test, which most pieces fail
        for match in _LONG_WORD.finditer(piece):
            yield piece[start : match.end()]
            start = match.end()
    yield piece[start:]
