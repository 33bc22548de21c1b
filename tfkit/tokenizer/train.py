"""Byte-level BPE as in GPT-2 (Radford et al. 2019, section 2.2): every text has ids, and decoding gives every byte back."""

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


def _told(texts: Iterable[str], progress: Callable[[int], None] | None, abandoned: threading.Event) -> Iterator[str]:
    """The texts in parts that have the same words (pieces.py): a long one would take the trainer 200 bytes a word."""
    for text in texts:
        for piece in pieces(text):
            if abandoned.is_set():
                raise InterruptedError("nobody waits for this tokenizer any more")
            yield piece
        if progress is not None:
            progress(len(text.encode()))
