"""Conversations as token ids, with the positions of the answers, for supervised fine-tuning.

The text of a conversation is encoded as a whole, as in `tfkit generate --chat` and in transformers' apply_chat_template(tokenize=True):
special tokens in the text are parsed, and the post-processor adds none. The character offsets of the tokens show which ids belong to an
answer.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import tokenizers
from numpy.typing import NDArray

from tfkit.errors import ModelError, UsageError
from tfkit.tokenizer.chat_formats import FORMATS, ChatFormat, Ends, Message, UnfitError, join_segments
from tfkit.tokenizer.template import ChatTemplate, open_template
from tfkit.tokenizer.tokenizer import Tokenizer, token_text
from tfkit.tokenizer.tokenizer_guard import interruptible, tokenizer_errors
from tfkit.tokenizer.tool_calls import message_calls

Spans = list[tuple[int, int]]  # the offsets in the text at which each answer, with its end token, begins and ends
Json = Mapping[str, Any]
ANSWER = ({"role": "assistant", "content": "Hello"},)  # an example of messages: one answer
TRAINING_DATE = "2024-07-26"  # replaces today's date in templates that write it (Llama 3's), so that rows do not depend on the day
_SAMPLE = ({"role": "user", "content": "Hello"}, *ANSWER)  # a conversation that every format can express


class Render(Protocol):
    """A function that renders conversations as text."""

    def __call__(self, messages: Sequence[Json], place: str, tools: Sequence[Json] = (), /) -> tuple[str, Spans]:
        """Return a conversation's text, and the spans of its answers. `place`: its row, for errors. Raises UnfitError or ModelError."""


class ChatIds(NamedTuple):
    """The ids of a conversation, and which of them are training targets."""

    ids: NDArray[np.int64]  # (T,)
    targets: NDArray[np.bool_]  # (T,)


class Conversations:
    """Renders and encodes conversations in one chat format, or by the tokenizer's own template (`chat_format` None)."""

    def __init__(self, tokenizer: Tokenizer, chat_format: ChatFormat | None, system: str | None, folder: Path):
        """`system`: the system message of conversations without one. `folder`: the tokenizer's folder, for errors. Raises UsageError if
        the format cannot write `system` or needs tokens that the tokenizer lacks, ModelError if no model can be trained on the template.
        """
        self.tokenizer, self.format, self.system, self.folder = tokenizer, chat_format, system, folder
        self._backend = _with_plain_offsets(tokenizer)
        special = {number: token for number, token in tokenizer.backend.get_added_tokens_decoder().items() if token.special}
        self._special = set(special)
        self._control_tokens = ControlTokens(self._backend, list(special.values()), chat_format.markers if chat_format else ())
        self._ends = Ends(*(token_text(tokenizer.settings.get(role)) or "" for role in ("bos_token", "eos_token")))
        if chat_format is not None:
            self._check_tokens(chat_format)
        self.end_id = self._find_end_id()

    @contextmanager
    def renderer(self) -> Iterator[Render]:
        """Yield the function that renders conversations. A template is rendered in a process of its own, which ends with the context."""
        if self.format is not None:
            yield self._write
        else:
            with open_template(self.tokenizer, self.folder, TRAINING_DATE) as template:
                yield partial(_render, template)

    def literal(self, text: str) -> str | None:
        """Return a part of a text that would be parsed as a special token, or is a marker of the chat format; None if there is none."""
        return self._control_tokens.find(text)

    def encode(self, texts: Sequence[tuple[str, Spans]]) -> list[ChatIds]:
        """Return the ids of rendered conversations, and which ids are targets. `texts`: each text with the spans of its answers."""
        with tokenizer_errors():
            encodings = interruptible(lambda: self._backend.encode_batch([text for text, _ in texts], add_special_tokens=False))
        return [_to_chat_ids(encoding, spans) for encoding, (_, spans) in zip(encodings, texts, strict=True)]

    def ends_turn(self, chat: ChatIds) -> bool:
        """Whether every answer ends with a special token; otherwise the model would not learn to stop."""
        last = chat.targets & ~np.append(chat.targets[1:], False)
        return all(int(token_id) in self._special for token_id in chat.ids[last])

    def _write(self, messages: Sequence[Json], place: str, tools: Sequence[Json] = ()) -> tuple[str, Spans]:
        assert self.format is not None
        turns = [Message(turn["role"], turn["content"], tuple(call["function"] for call in message_calls(turn))) for turn in messages]
        return join_segments(self.format.segments(turns, self._ends, self.system, tools))

    def _check_tokens(self, chat_format: ChatFormat) -> None:
        """Raise UsageError if the tokenizer lacks tokens that the format writes, or the format cannot express the system message."""
        if self.system is not None and not chat_format.has_system:
            able = [other.name for other in FORMATS.values() if other.has_system]
            raise UsageError(f"objective.system: the format {chat_format.name} has no system message; remove it, or {_remedy(able)}")
        needed, others = list(chat_format.special), _remedy(name for name in FORMATS if name != chat_format.name)
        for name, wanted in (("bos", chat_format.bos), ("eos", chat_format.turn_end is None)):
            token = getattr(self._ends, name)
            if wanted and not token:
                raise UsageError(f"objective.format: {chat_format.name} writes {name}, which the tokenizer lacks; {others}")
            needed += [token] if wanted else []
        lacking = [token for token in needed if len(self._backend.encode(token, add_special_tokens=False).ids) != 1]
        if lacking:
            raise UsageError(
                f"objective.format: {chat_format.name} needs {' and '.join(lacking)} as special tokens, which the tokenizer does not have; "
                f"train it with tokenizer.special_tokens: {json.dumps(lacking)}, or {others}"
            )

    def _find_end_id(self) -> int:
        """Return the id that ends an answer in a sample conversation. Raises ModelError if the template cannot be trained on: it
        refuses the sample, ends an answer without a special token, begins with two bos, or has answers that change the ids of their prompt.
        """
        try:
            with self.renderer() as render:
                text, spans = render(_SAMPLE, "")
        except UnfitError as error:
            raise ModelError(f"{self.folder}: the chat template cannot be trained on: {error}; {_remedy()}") from None
        [chat, prompt] = self.encode([(text, spans), (text[: spans[0][0]], [])])
        if not chat.targets.any() or not self.ends_turn(chat):
            raise ModelError(
                f"{self.folder}: the chat template ends an answer with {text[-20:]!r}, which is not a special token, so a model "
                f"would not learn to stop; {_remedy()}"
            )
        bos = self.tokenizer.bos_id
        if len(chat.ids) > 1 and bos is not None and chat.ids[0] == chat.ids[1] == bos:
            raise ModelError(f"{self.folder}: the chat template begins with two {self._ends.bos}; {_remedy()}")
        first = int(chat.targets.argmax())
        if prompt.ids.tolist() != chat.ids[:first].tolist():
            raise ModelError(f"{self.folder}: the ids of a prompt alone differ from its ids in the whole text; {_remedy()}")
        return int(chat.ids[chat.targets][-1])


def _remedy(formats: Iterable[str] = FORMATS) -> str:
    return f"name another objective.format: {', '.join(formats)}"


class ControlTokens:
    """Finds special tokens as the tokenizer matches them: those with the flag `normalized` in the normalized text, others in the text."""

    def __init__(self, backend: tokenizers.Tokenizer, special: Sequence[tokenizers.AddedToken], markers: Sequence[str]):
        """`markers`: texts to find in addition to the special tokens."""
        self._normalizer = backend.normalizer
        by_normalized = {self._normalized(token.content): token for token in special if token.normalized and self._normalizer is not None}
        direct = {token.content: token for token in special if not (token.normalized and self._normalizer is not None)}
        self._tokens = {**{text: token.content for text, token in by_normalized.items()}, **{text: text for text in (*direct, *markers)}}
        self._direct, self._after = _any_of({**dict.fromkeys(markers), **direct}), _any_of(by_normalized)

    def find(self, text: str) -> str | None:
        """Return a special token or marker in a text; None if there is none."""
        match = self._direct.search(text) if self._direct else None
        if match is None and self._after is not None:
            match = self._after.search(self._normalized(text))
        return None if match is None else self._tokens[match[0]]

    def _normalized(self, text: str) -> str:
        return str(self._normalizer.normalize_str(text)) if self._normalizer is not None else text


def _any_of(tokens: Mapping[str, tokenizers.AddedToken | None]) -> re.Pattern[str] | None:
    """Return a pattern that matches any of the keys, at each place the longest. A key whose token has the flag `single_word` matches only
    as a whole word. None if there are no keys.
    """
    words = {text for text, token in tokens.items() if token is not None and token.single_word}
    ordered = sorted(filter(None, tokens), key=len, reverse=True)
    patterns = [rf"(?<!\w){re.escape(text)}(?!\w)" if text in words else re.escape(text) for text in ordered]
    return re.compile("|".join(patterns)) if patterns else None


def resolve_format(name: str, tokenizer: Tokenizer, system: str | None) -> ChatFormat | None:
    """Return the chat format that objective.format (`name`) means; None: the tokenizer's template, which is no format's. `auto` means
    the tokenizer's template if it has one, else the first format whose special tokens it has. Raises UsageError if neither can be used.
    """
    if name == "template" and tokenizer.chat_template is None:
        raise UsageError(f"objective.format: the tokenizer has no chat template; {_remedy()}")
    if name in FORMATS:
        return FORMATS[name]
    if tokenizer.chat_template is not None:  # a template that tfkit saved may be a format's
        saved = next((chat_format for chat_format in FORMATS.values() if chat_format.jinja(system) == tokenizer.chat_template), None)
        if saved is None and system is not None:
            raise UsageError(f"objective.system: the tokenizer's own chat template would ignore it; remove it, or {_remedy()}")
        return saved
    for chat_format in FORMATS.values():
        if chat_format.special and all(tokenizer.backend.token_to_id(token) is not None for token in chat_format.special):
            return chat_format
    raise UsageError(
        f"objective.format: the tokenizer has neither a chat template nor the special tokens of a format; {_remedy()}. Where a run trains "
        "its tokenizer, chatml, chatml_tools, llama3 and gemma need tokenizer.special_tokens"
    )


@lru_cache(maxsize=2)  # since rendering a template starts a process
def end_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the ids that end a generated text: eos, the id that ends a turn in the chat template (unless Conversations refuses the
    template), and the end ids that the model's config.json and generation_config.json state.
    """
    ends = [tokenizer.eos_id]
    if tokenizer.chat_template is not None:
        with suppress(ModelError, UsageError):
            ends.append(Conversations(tokenizer, resolve_format("auto", tokenizer, None), None, Path("tokenizer")).end_id)
    return tuple(end for end in dict.fromkeys([*ends, *tokenizer.stated_end_ids]) if end is not None)


def chat_tokenizer(tokenizer: Tokenizer, chat_format: ChatFormat | None, system: str | None) -> Tokenizer:
    """Return the tokenizer of a chat checkpoint. It has the format's template (`chat_format` None: that of `tokenizer`), and parses special
    tokens in texts, since templates write such tokens.
    """
    template = tokenizer.chat_template if chat_format is None else chat_format.jinja(system)
    return tokenizer.changed(tokenizer.tokenizer_json, {**tokenizer.settings, "split_special_tokens": False}, template)


def _render(template: ChatTemplate, messages: Sequence[Json], place: str, tools: Sequence[Json] = ()) -> tuple[str, Spans]:
    """Return the text that a template renders, and the span of each answer, which begins where the generation prompt ends. Raises
    UnfitError if the text of the messages up to an answer is not a prefix of the whole text.
    """
    whole = template.render(messages, tools=tools, place=place)
    spans = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = template.render(messages[:number], tools=tools, add_generation_prompt=True, place=place)
        after = template.render(messages[: number + 1], tools=tools, place=place)
        if number == 0 and not after.startswith(before):
            raise UnfitError(
                "the assistant speaks first",
                "the assistant speaks first, for which the chat template has no prompt; begin with a message by the user or the system",
            )
        if not (after.startswith(before) and whole.startswith(after)):
            raise UnfitError(
                "the chat template rewrites earlier messages",
                f"the text of the first {number + 1} messages is not a prefix of the whole text, so message {number + 1} is not in it",
            )
        answer = after[len(before) :].rstrip()  # white space after a turn is not part of the answer
        spans.append((len(before), len(before) + len(answer)))
    return whole, spans


def _with_plain_offsets(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """Return a copy of the backend that parses special tokens in texts, and whose offsets include the space at the beginning of a token.

    The post-processor is removed, since that of GPT-2 would exclude this space from the offsets.
    """
    document = json.loads(tokenizer.tokenizer_json) | {"post_processor": None}
    backend = tokenizers.Tokenizer.from_str(json.dumps(document))
    backend.no_padding()
    backend.no_truncation()
    return backend


def _to_chat_ids(encoding: tokenizers.Encoding, spans: Spans) -> ChatIds:
    begins = np.array([begin for begin, _ in encoding.offsets], np.int64)
    targets = np.zeros(len(begins), np.bool_)
    for begin, end in spans:
        targets |= (begins >= begin) & (begins < end)
    return ChatIds(np.array(encoding.ids, np.int64), targets)
