"""Prompts, read from a file or a pipe: JSON lines, or a text per line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from tfkit.engine.inference.pipe import Pipe
from tfkit.errors import DataError, argument

_FEWEST_PROMPTS, MOST_PROMPTS = 16, 128  # in the first batch, and in later ones


@dataclass(frozen=True)
class Prompt:
    """A text to continue; with --chat a user's message, or all messages of a conversation. `place`: for errors.

    `given`: the fields of its JSON line, which the line of its answer repeats.
    """

    place: str
    given: dict[str, Any]
    text: str = ""
    messages: list[dict[str, Any]] | None = None
    tools: Any = None  # the functions that may be called in the conversation

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """The messages to answer."""
        return self.messages or [{"role": "user", "content": self.text}]


def prompt_of(place: str, text: str) -> Prompt:
    """Return a plain text as a prompt."""
    return Prompt(place, {"prompt": text}, _without_surrogates(text, place))


def prompt_batches(file: BinaryIO, place: str, chat: bool) -> Iterator[list[Prompt]]:
    """Yield the prompts of the lines that are not empty in batches; from a pipe, of the lines that are available.

    If the first line is a JSON object, all must be; else each line is a prompt as it is. An error in a line is raised after the batch of
    the lines before it. Raises DataError.
    """
    is_json = None
    for lines in _lines(Pipe(file, place)):
        batch: list[Prompt] = []
        for number, line in lines:
            if is_json is None:
                is_json = isinstance(_value(line), dict)
            try:
                batch.append(_read_line(line, f"{place}:{number}", is_json, chat))
            except DataError:
                if batch:
                    yield batch
                raise
        yield batch
    if is_json is None:
        raise DataError(f'{place}: there is no prompt; give lines such as {{"prompt": "Once upon"}}, or one prompt per line')


def prompts_in_batch(number: int) -> int:
    """Return the most prompts of a batch; few at first, for quick first answers, and twice as many after every second one: two ranks take
    turns.
    """
    return min(_FEWEST_PROMPTS << number // 2, MOST_PROMPTS)


def _lines(pipe: Pipe) -> Iterator[list[tuple[int, bytes]]]:
    """Yield the lines that are not empty, with their numbers: at least one at once, and those available without waiting."""
    lines: list[tuple[int, bytes]] = []
    batches = 0
    for number, line in enumerate(pipe, 1):
        bare = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).removesuffix(b"\n")
        if bare.strip():
            lines.append((number, bare))
        if lines and (len(lines) == prompts_in_batch(batches) or not pipe.is_ready()):
            yield lines
            lines, batches = [], batches + 1
    if lines:
        yield lines


def _read_line(line: bytes, place: str, is_json: bool, chat: bool) -> Prompt:
    try:
        text = line.decode().removesuffix("\r")
    except UnicodeDecodeError as error:
        raise DataError(f"{place}:{error.start + 1}: not UTF-8; save the prompts as UTF-8") from None
    return _read_row(_value(line), place, chat) if is_json else Prompt(place, {"prompt": text}, text)


def _read_row(row: Any, place: str, chat: bool) -> Prompt:
    if not isinstance(row, dict):
        raise DataError(f'{place}: not a JSON object, as the first line is; write {{"prompt": ...}} in every line')
    if chat and "messages" in row:
        return Prompt(place, row, messages=_read_messages(row["messages"], place), tools=row.get("tools"))
    if not isinstance(row.get("prompt"), str):
        hint = f"; messages are read with {argument('chat', True)}" if "messages" in row else ""
        found = f"it is {json.dumps(row['prompt'])[:60]}" if "prompt" in row else f"here are {', '.join(map(str, row)) or 'no fields'}"
        raise DataError(f'{place}: no text under "prompt"; {found}{hint}')
    return Prompt(place, row, _without_surrogates(row["prompt"], place))


def _read_messages(messages: Any, place: str) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise DataError(f'{place}: "messages" holds no list of messages; write [{{"role": "user", "content": "Hello"}}]')
    for i, message in enumerate(messages):
        for name in ("role", "content"):
            text = message.get(name) if isinstance(message, dict) else None
            if name == "content" and text is None and isinstance(message, dict) and message.get("tool_calls"):
                continue
            if not isinstance(text, str):
                raise DataError(f'{place}: messages[{i}] has no text under "{name}"; write {{"role": "user", "content": "Hello"}}')
            _without_surrogates(text, place, f"{name} in messages[{i}]")
    return messages


def _without_surrogates(text: str, place: str, what: str = "the prompt") -> str:
    """Return the text. Raise DataError if it has half a character (a surrogate), as JSON and the command line allow."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: character {error.start + 1} of {what} is half of one (a surrogate); write the whole character") from None
    return text


def _value(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
