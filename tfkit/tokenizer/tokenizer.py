"""The tokenizer that every command uses: a `tokenizers.Tokenizer` with the ids of its special tokens, and the text of its tokenizer.json.
Functions give the readable form of its entries, and how many UTF-8 bytes a token covers, from which bits per byte are computed.

A text may contain special tokens literally (`<|endoftext|>` in a file about GPT-2). transformers parses them as special tokens unless
tokenizer_config.json has `split_special_tokens: true`, which is not part of tokenizer.json. tfkit follows the same rule, so its ids equal
AutoTokenizer's. Tokenizers that tfkit trains have this setting, so that no text can end a document, except those for models whose prompts
may contain special tokens, such as [MASK] or a sentinel: wordpiece, unigram, and RoBERTa's byte_bpe.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from tfkit.tokenizer.pieces import BATCH, batches, pieces, safe_border
from tfkit.tokenizer.pipelines import BYTE_OF
from tfkit.tokenizer.tokenizer_guard import interruptible, tokenizer_errors

_MARKS = {ord(" "): "Ġ", ord("\n"): "Ċ", ord("\t"): "ĉ", ord("\r"): "č"}  # the signs that a byte-level vocabulary uses for white space
_BYTE_FALLBACK = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_HEAD = 256  # characters of a text in which `opening_bytes` first looks for the second token; if there is none, it looks in twice as many


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """An immutable tokenizer, which threads may share. To compare two tokenizers, compare their fingerprints."""

    backend: tokenizers.Tokenizer
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    size: int  # the largest id + 1
    tokenizer_json: str = field(repr=False)  # the content of tokenizer.json
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)  # kept values of tokenizer_config.json, such as special tokens
    chat_template: str | None = field(default=None, repr=False)
    decoder_start_id: int | None = None  # decoder_start_token_id of the model's config.json; None: `start_id` is bos, else pad
    forced_first_id: int | None = None  # forced_bos_token_id, which an encoder-decoder such as BART generates right after `start_id`
    stated_end_ids: tuple[int, ...] = ()  # the eos ids in the model's config.json and generation_config.json; each ends a generated text
    unk_id: int | None = None  # for text that the vocabulary cannot express. This id and the next three are None without such a token
    cls_id: int | None = None  # before an encoder's text; the hidden state at this token is the input of classification heads
    sep_id: int | None = None  # after each text of an encoder
    mask_id: int | None = None  # replaces a masked token

    @classmethod
    def from_json(cls, text: str, settings: Mapping[str, Any], chat_template: str | None = None) -> "Tokenizer":
        """Build a tokenizer from the text of a tokenizer.json and the values of a tokenizer_config.json.

        Raises ValueError if bos, eos or pad is not in the vocabulary; the `tokenizers` library raises Exception for a damaged text.
        """
        return cls.from_backend(tokenizers.Tokenizer.from_str(text), text, settings, chat_template)

    @classmethod
    def from_backend(
        cls, backend: tokenizers.Tokenizer, text: str, settings: Mapping[str, Any], chat_template: str | None = None
    ) -> "Tokenizer":
        """Build a tokenizer as `from_json` does. `backend`: built from `text`, and used nowhere else: its settings are changed here."""
        # tokenizer.json may contain the padding and truncation of an earlier program; AutoTokenizer resets them, too.
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = bool(settings.get("split_special_tokens", False))
        roles = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")
        ids: dict[str, Any] = {f"{role}_id": _special_id(backend, settings, f"{role}_token") for role in roles}
        size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        return cls(backend, size=size, tokenizer_json=text, settings=dict(settings), chat_template=chat_template, **ids)

    def changed(self, text: str, settings: Mapping[str, Any], chat_template: str | None) -> "Tokenizer":
        """Build a tokenizer for the same model from changed contents of its files; ids from the model's config.json stay the same."""
        changed = Tokenizer.from_json(text, settings, chat_template)
        ids = {name: getattr(self, name) for name in ("decoder_start_id", "forced_first_id", "stated_end_ids")}
        return replace(changed, **ids)

    @property
    def forced_ids(self) -> tuple[int, ...]:
        """The ids between `start_id` and the text in the input of an encoder-decoder's decoder."""
        return () if self.forced_first_id is None else (self.forced_first_id,)

    @cached_property
    def prefix(self) -> tuple[int, ...]:
        """The ids that the post-processor in tokenizer.json adds before every text."""
        return self._template[0]

    @cached_property
    def suffix(self) -> tuple[int, ...]:
        """The ids that the post-processor in tokenizer.json adds after every text."""
        return self._template[1]

    @property
    def reads_openings_twice(self) -> bool:
        """Whether a text that begins with the spelling of the first special token of `prefix` gets its id twice: from the post-processor,
        and for the token in the text.
        """
        return bool(self.prefix) and not self.backend.encode_special_tokens

    @property
    def start_id(self) -> int | None:
        """The first id that an encoder-decoder's decoder reads: `decoder_start_id`, else bos, else pad (as in T5 and Marian)."""
        if self.decoder_start_id is not None:
            return self.decoder_start_id
        return self.pad_id if self.bos_id is None else self.bos_id

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, with the special tokens that the post-processor adds."""
        return [ids.tolist() for ids in self.encode_arrays(texts)]

    def encode_arrays(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Return the ids of `encode_texts` as arrays, which take a ninth of the memory of lists."""
        prefix, suffix = (np.array(ids, np.uint32) for ids in self._template)
        return [np.concatenate([prefix, ids, suffix]) for ids in self.encode_bare(texts)]

    def encode_bare(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Return the ids of each text without the post-processor's special tokens. Long texts are encoded in pieces (pieces.py)."""
        split = [[text] if self._border is None else list(pieces(text, border=self._border)) for text in texts]
        encoded = _encode(self.backend, (piece for parts in split for piece in parts))
        return [next(encoded) if len(parts) == 1 else np.concatenate(list(islice(encoded, len(parts)))) for parts in split]

    def with_special_tokens(self, tokens: Sequence[str]) -> "Tokenizer":
        """Return a tokenizer that also has these special tokens; those that are new get the ids after the largest id."""
        lacking = [token for token in tokens if self.backend.token_to_id(token) is None]
        if not lacking:
            return self
        backend = tokenizers.Tokenizer.from_str(self.tokenizer_json)
        backend.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in lacking])
        return self.changed(backend.to_str(pretty=True), self.settings, self.chat_template)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of ids, as AutoTokenizer's decode does; bytes of incomplete characters become U+FFFD."""
        with tokenizer_errors():
            return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def fingerprint(self) -> str:
        """Return a hash of tokenizer.json and of the settings that affect encoding: equal fingerprints mean equal ids for every text."""
        digest = hashlib.blake2b(self.tokenizer_json.encode(), digest_size=16)
        digest.update(json.dumps([self.backend.encode_special_tokens, self.bos_id, self.eos_id]).encode())
        return digest.hexdigest()

    def truncating(self, length: int) -> tokenizers.Tokenizer:
        """Return a copy of the backend that truncates to `length` ids. It is a copy, since truncation affects all users of a backend."""
        if length not in self._truncating_backends:
            backend = self._truncating_backends[length] = self.copy_backend()
            backend.enable_truncation(length, strategy="longest_first")
        return self._truncating_backends[length]

    def copy_backend(self) -> tokenizers.Tokenizer:
        """Return a copy of the backend for a caller that changes its settings."""
        return Tokenizer.from_json(self.tokenizer_json, self.settings).backend

    @cached_property
    def _truncating_backends(self) -> dict[int, tokenizers.Tokenizer]:
        return {}

    @cached_property
    def _template(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        with tokenizer_errors():
            probe = self.backend.encode("x")
            if 0 not in probe.special_tokens_mask:  # a vocabulary without x, such as one for DNA
                entries = map(self.backend.encode, self.backend.get_vocab())
                probe = next((entry for entry in entries if 0 in entry.special_tokens_mask), probe)
        first = next((i for i, special in enumerate(probe.special_tokens_mask) if not special), len(probe.ids))
        last = first + probe.special_tokens_mask.count(0)
        return tuple(probe.ids[:first]), tuple(probe.ids[last:])

    @cached_property
    def added_tokens(self) -> frozenset[str]:
        """The texts of all added tokens, which include the special tokens."""
        return frozenset(added.content for added in self.backend.get_added_tokens_decoder().values())

    @cached_property
    def byte_level(self) -> bool:
        """Whether the vocabulary's entries are byte strings, in which a character represents a byte (pipelines.BYTE_OF)."""
        return "ByteLevel" in self._decoder_types

    @cached_property
    def byte_ids(self) -> frozenset[int]:
        """The ids of the entries for single bytes, such as <0x0A>, which encode characters without an entry; empty: no byte fallback."""
        if "ByteFallback" not in self._decoder_types:
            return frozenset()
        ids = (self.backend.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
        return frozenset(token_id for token_id in ids if token_id is not None)

    @cached_property
    def _decoder_types(self) -> list[str]:
        decoder = json.loads(self.tokenizer_json).get("decoder") or {}
        return [decoder.get("type"), *(step.get("type") for step in decoder.get("decoders", ()))]

    @cached_property
    def _border(self) -> re.Pattern[str] | None:
        return safe_border(json.loads(self.tokenizer_json), self.backend.encode_special_tokens)


def readable_entry(tokenizer: Tokenizer, token_id: int) -> str:
    """Return the readable form of an entry: the text of its bytes, with Ġ for a space, if they are whole characters; else the entry."""
    entry = tokenizer.backend.id_to_token(token_id) or f"<{token_id}>"
    if entry.isascii() or not tokenizer.byte_level or any(character not in BYTE_OF for character in entry):
        return entry
    try:
        text = bytes(BYTE_OF[character] for character in entry).decode()
    except UnicodeDecodeError:  # the entry has only some bytes of a character
        return entry
    return text.translate(_MARKS) if text.translate(_MARKS).isprintable() else entry


def token_bytes(tokenizer: Tokenizer, token_id: int) -> int:
    """Return the number of UTF-8 bytes that an id decodes to when it is the first of a text. Raises ValueError for an unknown id."""
    token = tokenizer.backend.id_to_token(int(token_id))
    if token is None:
        raise ValueError(f"token id {token_id} is not in the vocabulary of {tokenizer.size} entries")
    if token in tokenizer.added_tokens:
        return len(token.encode())
    if tokenizer.byte_level:
        return len(token)  # each character represents a byte (GPT-2's alphabet)
    if _BYTE_FALLBACK.fullmatch(token):
        return 1
    return len(tokenizer.decode([int(token_id)]).encode())


def opening_bytes(tokenizer: Tokenizer, text: str, ids: Sequence[int] | NDArray[np.uint32]) -> int:
    """Return the number of UTF-8 bytes of a text that its first id covers; all bytes if the text has no ids.

    Unlike `token_bytes`, this is also exact for lossy tokenizers such as BERT's, whose unknown token covers a whole word.
    """
    if len(ids) == 0:
        return len(text.encode())
    token = tokenizer.backend.id_to_token(int(ids[0]))
    if tokenizer.byte_level or (token and _BYTE_FALLBACK.fullmatch(token)):
        return min(token_bytes(tokenizer, int(ids[0])), len(text.encode()))
    length = _HEAD
    while True:
        with tokenizer_errors():
            head = tokenizer.backend.encode(text[:length], add_special_tokens=False)
        if len(head) == 0 and length >= len(text):
            return len(text.encode())
        if len(head) > 1 or length >= len(text):
            # The ▁ that SentencePiece puts before a text may be a token of its own. Such a token covers no bytes, but has the offsets of
            # the text's first character, with which the second token begins.
            end = min([head.offsets[0][1], *(start for start, _ in head.offsets[1:2])])
            return len(text[:end].encode())
        length *= 2


def token_text(value: Any) -> str | None:
    """Return the text of a special token in Hugging Face's formats: a string, a dict with `content`, or None."""
    return value.get("content") if isinstance(value, dict) else value


def _special_id(backend: tokenizers.Tokenizer, settings: Mapping[str, Any], role: str) -> int | None:
    token = token_text(settings.get(role))
    if token is None:
        return None
    token_id: int | None = backend.token_to_id(token)
    if token_id is None and role in ("bos_token", "eos_token", "pad_token"):
        raise ValueError(f"the {role} {token!r} is not in the vocabulary")
    return token_id


def _encode(backend: tokenizers.Tokenizer, texts: Iterable[str]) -> Iterator[NDArray[np.uint32]]:
    """Yield the ids of each text without the post-processor's special tokens; each batch is encoded by parallel Rust threads."""
    for batch in batches(texts, len, BATCH):
        with tokenizer_errors():  # encode_batch_fast computes no offsets, and is 1.6 times as fast as encode_batch
            encodings = interruptible(partial(backend.encode_batch_fast, batch, add_special_tokens=False))
        for encoding in encodings:
            yield np.array(encoding.ids, np.uint32)
