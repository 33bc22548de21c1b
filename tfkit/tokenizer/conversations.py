"""Conversations as ids, with the places of the answers: what supervised training on them reads.

The whole text of a conversation is encoded once, as `tfkit generate --chat` and transformers' apply_chat_template(tokenize=True) do, so
its special tokens are read where they are written and none is added. Which ids are an answer's is told by the characters they stand for.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from numpy.typing import NDArray

from tfkit.errors import ModelError, UsageError
from tfkit.tokenizer.broken import broken_tokenizer
from tfkit.tokenizer.chat_formats import FORMATS, ChatFormat, Ends, Message, UnfitError, joined
from tfkit.tokenizer.interruptible import interruptible
from tfkit.tokenizer.template import ChatTemplate, open_template
from tfkit.tokenizer.tokenizer import Tokenizer, token_text

Spans = list[tuple[int, int]]  # the characters of each answer, the token that ends it included
Render = Callable[[Sequence[Mapping[str, Any]], str], tuple[str, Spans]]  # messages and place -> text; UnfitError if they do not fit
ANSWER = ({"role": "assistant", "content": "Hello"},)  # some answer
TRAINING_DATE = "2024-07-26"  # what a template is told that asks for the day, as Llama 3's own: rows are the same on every day
_TRIAL = ({"role": "user", "content": "Hello"}, *ANSWER)  # what every format can say


class ChatIds(NamedTuple):
    """The ids of a conversation, and which of them are the model's to say."""

    ids: NDArray[np.int64]  # (T,)
    targets: NDArray[np.bool_]  # (T,)


class Conversations:
    """Renders and encodes conversations in one format: one of FORMATS, or the tokenizer's own template (`format` is None)."""

    def __init__(self, tokenizer: Tokenizer, chat_format: ChatFormat | None, system: str | None, folder: Path):
        """`system` is for conversations without such a message; `folder` is where the tokenizer's template stands, for errors.

        Raises UsageError if the tokenizer lacks what the format writes, and ModelError if its template is of no use for training.
        """
        self.tokenizer, self.format, self.system, self.folder = tokenizer, chat_format, system, folder
        self._backend = _with_plain_offsets(tokenizer)
        special = {number: token for number, token in tokenizer.backend.get_added_tokens_decoder().items() if token.special}
        self._special = set(special)
        self._control_tokens = ControlTokens(self._backend, list(special.values()), chat_format.written if chat_format else ())
        self._ends = Ends(*(token_text(tokenizer.settings.get(role)) or "" for role in ("bos_token", "eos_token")))
        if chat_format is not None:
            self._check_tokens(chat_format)
        self.end_id = self._try_out()

    @contextmanager
    def renderer(self) -> Iterator[Render]:
        """What makes texts; inside, a template has its process."""
        if self.format is not None:
            yield self._write
        else:
            with open_template(self.tokenizer, self.folder, TRAINING_DATE) as template:
                yield partial(_render, template)

    def literal(self, text: str) -> str | None:
        """A special token, or another mark of the format, that is in a text and would be read as one."""
        return self._control_tokens.find(text)

    def encode(self, texts: Sequence[tuple[str, Spans]]) -> list[ChatIds]:
        """The ids of rendered texts."""
        with broken_tokenizer():
            encodings = interruptible(lambda _: self._backend.encode_batch([text for text, _ in texts], add_special_tokens=False))
        return [_mark(encoding, spans) for encoding, (_, spans) in zip(encodings, texts, strict=True)]

    def ends_turn(self, found: ChatIds) -> bool:
        """Whether the last target of every answer is a special token: else the model would not learn to stop."""
        last = found.targets & ~np.append(found.targets[1:], False)
        return all(int(number) in self._special for number in found.ids[last])

    def _write(self, messages: Sequence[Mapping[str, Any]], place: str) -> tuple[str, Spans]:
        assert self.format is not None
        return joined(self.format.segments([Message(one["role"], one["content"]) for one in messages], self._ends, self.system))

    def _check_tokens(self, chat_format: ChatFormat) -> None:
        """Raise UsageError if what the format writes are no single ids, or if it cannot say what the recipe wants."""
        if self.system is not None and not chat_format.has_system:
            raise UsageError(f"objective.system: the format {chat_format.name} has no system message; remove it, or {_REMEDY}")
        needed = list(chat_format.special)
        for name, wanted in (("bos", chat_format.bos), ("eos", chat_format.turn_end is None)):
            token = getattr(self._ends, name)
            if wanted and not token:
                raise UsageError(f"objective.format: {chat_format.name} writes {name}, and the tokenizer has none; {_REMEDY}")
            needed += [token] if wanted else []
        lacking = [token for token in needed if len(self._backend.encode(token, add_special_tokens=False).ids) != 1]
        if lacking:
            raise UsageError(
                f"objective.format: {chat_format.name} needs {' and '.join(lacking)} as special tokens, which the tokenizer does not have; "
                f"train it with tokenizer.special_tokens: {json.dumps(lacking)}, or {_REMEDY}"
            )

    def _try_out(self) -> int:
        """The id that ends an answer, told by a trial. Raises ModelError."""
        try:
            with self.renderer() as render:
                text, spans = render(_TRIAL, "")
        except UnfitError as error:
            raise ModelError(f"{self.folder}: the chat template cannot be trained on: {error}; {_REMEDY}") from None
        [found, prompt] = self.encode([(text, spans), (text[: spans[0][0]], [])])
        if not found.targets.any() or not self.ends_turn(found):
            raise ModelError(
                f"{self.folder}: the chat template ends an answer with {text[-20:]!r}, which is no special token, so that a model "
                f"would not learn to stop; {_REMEDY}"
            )
        bos = self.tokenizer.bos_id
        if len(found.ids) > 1 and bos is not None and found.ids[0] == found.ids[1] == bos:
            raise ModelError(f"{self.folder}: the chat template begins with two {self._ends.bos}; {_REMEDY}")
        first = int(found.targets.argmax())
        if prompt.ids.tolist() != found.ids[:first].tolist():
            raise ModelError(f"{self.folder}: before an answer the ids of the prompt alone are others than in the whole text; {_REMEDY}")
        return int(found.ids[found.targets][-1])


_REMEDY = f"name another objective.format: {', '.join(FORMATS)}"


class ControlTokens:
    """Finds special tokens in texts as the tokenizer matches them: those that are marked so after its normalizer, the others before it."""

    def __init__(self, backend: tokenizers.Tokenizer, special: Sequence[tokenizers.AddedToken], marks: Sequence[str]):
        """`marks`: texts that are looked for as they are, too."""
        self._normalizer = backend.normalizer
        by_normalized = {self._normalized(token.content): token for token in special if token.normalized and self._normalizer is not None}
        direct = {token.content: token for token in special if not (token.normalized and self._normalizer is not None)}
        self._tokens = {**{text: token.content for text, token in by_normalized.items()}, **{text: text for text in (*direct, *marks)}}
        self._direct, self._after = _any_of({**dict.fromkeys(marks), **direct}), _any_of(by_normalized)

    def find(self, text: str) -> str | None:
        """The first one."""
        found = self._direct.search(text) if self._direct else None
        if found is None and self._after is not None:
            found = self._after.search(self._normalized(text))
        return None if found is None else self._tokens[found[0]]

    def _normalized(self, text: str) -> str:
        return str(self._normalizer.normalize_str(text)) if self._normalizer is not None else text


def _any_of(tokens: Mapping[str, tokenizers.AddedToken | None]) -> re.Pattern[str] | None:
    """Matches each text, the longest first; of a token that is a single word only where no letter or digit is beside it."""
    words = {text for text, token in tokens.items() if token is not None and token.single_word}
    ordered = sorted(filter(None, tokens), key=len, reverse=True)
    return (
        re.compile("|".join(rf"(?<!\w){re.escape(text)}(?!\w)" if text in words else re.escape(text) for text in ordered))
        if ordered
        else None
    )


def resolve_format(name: str, tokenizer: Tokenizer, system: str | None) -> ChatFormat | None:
    """The format of a recipe; None stands for the tokenizer's own template. Raises UsageError where there is none.

    `auto` is the tokenizer's template if it has one, else the format whose special tokens it has.
    """
    if name == "template" and tokenizer.chat_template is None:
        raise UsageError(f"objective.format: the tokenizer has no chat template; {_REMEDY}")
    if name in FORMATS:
        return FORMATS[name]
    if tokenizer.chat_template is not None:  # one of ours, saved by a training, says the same as the format itself
        ours = next((one for one in FORMATS.values() if one.jinja(system) == tokenizer.chat_template), None)
        if ours is None and system is not None:
            raise UsageError(f"objective.system: the tokenizer's own chat template would not know it; remove it, or {_REMEDY}")
        return ours
    for one in FORMATS.values():
        if one.special and all(tokenizer.backend.token_to_id(token) is not None for token in one.special):
            return one
    raise UsageError(
        f"objective.format: the tokenizer has no chat template, and the special tokens of no format; {_REMEDY}; chatml, llama3 and gemma "
        "need tokenizer.special_tokens"
    )


def chat_tokenizer(tokenizer: Tokenizer, chat_format: ChatFormat | None, system: str | None) -> Tokenizer:
    """The tokenizer as a checkpoint for conversations has it: with the template of the format, and special tokens read where they stand
    in a text, since a template writes them there.
    """
    template = tokenizer.chat_template if chat_format is None else chat_format.jinja(system)
    return Tokenizer.from_json(tokenizer.tokenizer_json, {**tokenizer.settings, "split_special_tokens": False}, template)


def _render(template: ChatTemplate, messages: Sequence[Mapping[str, Any]], place: str) -> tuple[str, Spans]:
    """The text of a template, and the answers in it: each is what comes behind the text that asks for it."""
    whole = template.render(messages, place=place)
    spans = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = template.render(messages[:number], add_generation_prompt=True, place=place)
        after = template.render(messages[: number + 1], place=place)
        if not (after.startswith(before) and whole.startswith(after)):
            raise UnfitError(
                "the chat template rewrites earlier messages",
                f"the text of the first {number + 1} messages is no beginning of the whole, so message {number + 1} has no place in it",
            )
        answer = after[len(before) :].rstrip()  # a line end behind the turn is not the model's to say
        spans.append((len(before), len(before) + len(answer)))
    return whole, spans


def _with_plain_offsets(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """A copy of the backend that reads special tokens in texts, and whose tokens have the characters that they stand for.

    GPT-2's post-processor takes the space before a word out of them.
    """
    document = json.loads(tokenizer.tokenizer_json) | {"post_processor": None}
    backend = tokenizers.Tokenizer.from_str(json.dumps(document))
    backend.no_padding()
    backend.no_truncation()
    return backend


def _mark(encoding: tokenizers.Encoding, spans: Spans) -> ChatIds:
    begins = np.array([begin for begin, _ in encoding.offsets], np.int64)
    targets = np.zeros(len(begins), np.bool_)
    for begin, end in spans:
        targets |= (begins >= begin) & (begins < end)
    return ChatIds(np.array(encoding.ids, np.int64), targets)
