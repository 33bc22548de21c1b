"""Byte-level BPE as in GPT-2 (Radford et al. 2019, section 2.2): every text has ids, and decoding gives every byte back."""

import re
import threading
from collections.abc import Callable, Iterable, Iterator

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from tfkit.tokenizer.interruptible import interruptible
from tfkit.tokenizer.pieces import pieces
from tfkit.tokenizer.tokenizer import Tokenizer

END_OF_TEXT = "<|endoftext|>"
SMALLEST = 257  # the 256 bytes and the special token


def train_byte_bpe(texts: Iterable[str], vocab_size: int, add_bos: bool, progress: Callable[[int], None] | None = None) -> Tokenizer:
    """Train on the texts; `<|endoftext|>` is bos and eos, with id 0, and with `add_bos` the template puts it before every text.

    Texts with few different words hold fewer merges than asked for: `size` is then smaller than `vocab_size`, for the caller to
    say. `progress` is told the bytes of each text, in another thread, and may raise to stop. There is no pad token: batches are masked
    by length.
    """
    if vocab_size < SMALLEST:
        raise ValueError(f"vocab_size {vocab_size} is too small: the 256 bytes and {END_OF_TEXT} need {SMALLEST}")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    interruptible(lambda abandoned: backend.train_from_iterator(_told(texts, progress, abandoned), trainer))
    if add_bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{END_OF_TEXT} $A",
            pair=f"{END_OF_TEXT} $A {END_OF_TEXT} $B",
            special_tokens=[(END_OF_TEXT, backend.token_to_id(END_OF_TEXT))],
        )
    settings = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "split_special_tokens": True}
    return Tokenizer.from_json(backend.to_str(pretty=True), settings)


# The trainer takes quadratic time over a word, so that a megabyte of letters without a space would take it for ever. No word of a
# language is as long as this; of a run of one class of characters that is, the trainer sees parts.
_LONGEST_WORD = 1024  # characters
_CLASSES = (r"[^\W\d_]", r"\d", r"\s", r"[^\w\s]|_")
_LONG_WORD, _HALF_OF_ONE = (
    re.compile("|".join(f"(?:{kind}){{{length}}}" for kind in _CLASSES)) for length in (_LONGEST_WORD, _LONGEST_WORD // 2)
)


def _told(texts: Iterable[str], progress: Callable[[int], None] | None, abandoned: threading.Event) -> Iterator[str]:
    """The texts in parts that have the same words (pieces.py), but for endless ones: a long text takes the trainer 200 bytes a word."""
    for text in texts:
        for piece in pieces(text):
            if abandoned.is_set():
                raise InterruptedError("nobody waits for this tokenizer any more")
            yield from _cut_long_words(piece)
        if progress is not None:
            progress(len(text.encode()))


def _cut_long_words(piece: str) -> Iterator[str]:
    start = 0
    if any(_HALF_OF_ONE.match(piece, half) for half in range(0, len(piece), _LONGEST_WORD // 2)):  # a quick look, since most have none
        for found in _LONG_WORD.finditer(piece):
            yield piece[start : found.end()]
            start = found.end()
    yield piece[start:]
