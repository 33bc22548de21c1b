"""The text that a tokenizer is trained on, cut so that a trainer's time and memory stay bounded and its result is always the same."""

import re
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import accumulate

from tokenizers import Tokenizer as Backend
from tokenizers import normalizers, pre_tokenizers, trainers

from tfkit.tokenizer.interruptible import interruptible
from tfkit.tokenizer.pieces import pieces

# SentencePiece skips the rarest characters too: 5 of 10,000, and 0.5 for Llama.
_COVERAGE = 0.9999
_GAP = "\0"  # in place of a character without an entry


class Corpus:
    """Texts that can be read more than once. `progress` receives the bytes of each text, in another thread, and may raise to stop."""

    def __init__(self, texts: Iterable[str], progress: Callable[[int], None] | None = None):
        self._texts, self._progress = texts, progress

    def alphabet(
        self, most: int, normalizer: normalizers.Normalizer | None = None, left_out: Callable[[str], bool] = str.isspace
    ) -> list[str]:
        """Return the most frequent characters, which make up 99.99% of the normalized texts: at most `most`, in the order of their codes.

        Rarer ones would take entries that pieces of words need. `left_out` characters do not count as text: white space, for a kind
        that has none within words.
        """
        counts: Counter[str] = Counter()
        for text in self._texts:
            for piece in pieces(text):
                counts.update(piece if normalizer is None else normalizer.normalize_str(piece))
        ranked = sorted((c for c in counts if c != _GAP and not left_out(c)), key=lambda c: (-counts[c], c))
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
        """Train on the normalized texts; with an alphabet, words end at a character that is not in it."""
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
        """Yield the texts in parts with the same words (pieces.py), except endless ones: a long text takes the trainer 200 bytes a word."""
        for text in self._texts:
            for piece in pieces(text):
                if abandoned.is_set():
                    raise InterruptedError("the training of this tokenizer was abandoned")
                yield from _cut_long_words(piece)
            if self._progress is not None:
                self._progress(len(text.encode()))


# The trainer takes quadratic time over a word: it would not finish a megabyte of letters without a space. No word of a language is as
# long as this; a longer run of one class of characters is cut into parts.
_LONGEST_WORD = 1024  # characters
_CLASSES = (r"[^\W\d_]", r"\d", r"\s", r"[^\w\s]|_")
_LONG_WORD, _HALF_OF_ONE = (
    re.compile("|".join(f"(?:{kind}){{{length}}}" for kind in _CLASSES)) for length in (_LONGEST_WORD, _LONGEST_WORD // 2)
)


def _cut_long_words(piece: str) -> Iterator[str]:
    start = 0
    if any(_HALF_OF_ONE.match(piece, half) for half in range(0, len(piece), _LONGEST_WORD // 2)):  # a quick look, since most have none
        for found in _LONG_WORD.finditer(piece):
            yield piece[start : found.end()]
            start = found.end()
    yield piece[start:]
