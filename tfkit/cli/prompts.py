"""What generate continues, read from the command line, a file or stdin; and the line that it writes for each."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit import console
from tfkit.errors import DataError, UsageError

if TYPE_CHECKING:
    from tfkit.generation.complete import TextCompletion


@dataclass(frozen=True)
class Prompt:
    """A text to continue; with --chat what a user says, or else all messages of a conversation. `place` is where it stands, for errors."""

    place: str
    text: str = ""
    messages: list[dict[str, Any]] | None = None

    @property
    def given(self) -> dict[str, Any]:
        """As its JSON line has it, for the one that is written."""
        return {"prompt": self.text} if self.messages is None else {"messages": self.messages}

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """The messages to answer."""
        return self.messages or [{"role": "user", "content": self.text}]


def read_prompts(prompt: str | None, path: str | None, words: Sequence[str], chat: bool) -> list[Prompt]:
    """All prompts, read before anything is computed, so that an error in the last one is found at once.

    Empty only with --chat on a terminal, where a conversation begins. Raises UsageError, DataError.
    """
    unknown = [word for word in words if word != "-"]
    if unknown:
        raise UsageError(f"generate does not know what {unknown[0]!r} is: a prompt is given as --prompt TEXT, a change as key=value")
    given = [("--prompt", prompt is not None), ("--input", path is not None), ("-", bool(words))]
    named = [name for name, is_given in given if is_given]
    if chat and not named and sys.stdin is not None and sys.stdin.isatty():
        return []
    if len(named) != 1:
        raise UsageError(
            "generate takes exactly one of --prompt TEXT, --input F, and - for stdin"
            + (f", not {' and '.join(named)}" if named else "; on a terminal, --chat alone is a conversation" if chat else "")
        )
    if prompt is not None:
        return [Prompt("--prompt", _whole(prompt, "--prompt"))]
    place = "stdin" if path in (None, "-") else str(path)
    if place == "stdin" and sys.stdin is None:
        raise DataError("stdin: closed, so no prompt comes from it; give --prompt TEXT or --input F")
    try:
        content = sys.stdin.buffer.read() if path in (None, "-") else Path(str(path)).read_bytes()
    except OSError as error:
        raise DataError(f"{place}: cannot be read: {error.strerror}; --input takes a file of prompts") from error
    prompts = list(_read_lines(content, place, chat))
    if not prompts:
        raise DataError(f'{place}: there is no prompt; give lines such as {{"prompt": "Once upon"}}, or a prompt a line')
    return prompts


def write_line(prompt: Prompt, completion: "TextCompletion") -> None:
    """The JSON line of docs/cli.md."""
    console.json(prompt.given | {"completion": completion.text, "tokens": completion.tokens, "finish": completion.finish})


def _read_lines(content: bytes, place: str, chat: bool) -> Iterator[Prompt]:
    """The prompts of lines, empty ones left out. If the first is a JSON object, all must be; else each line is a prompt as it stands."""
    lines = [(number, line) for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1) if line.strip()]
    rows = bool(lines) and isinstance(_value(lines[0][1]), dict)
    for number, line in lines:
        try:
            text = line.decode().removesuffix("\r")
        except UnicodeDecodeError as error:
            raise DataError(f"{place}:{number}:{error.start + 1}: not UTF-8; save the prompts as UTF-8") from None
        yield _read_row(_value(line), f"{place}:{number}", chat) if rows else Prompt(f"{place}:{number}", text)


def _read_row(row: Any, place: str, chat: bool) -> Prompt:
    if not isinstance(row, dict):
        raise DataError(f'{place}: not a JSON object, as the first line is; write {{"prompt": ...}} in every line')
    if chat and "messages" in row:
        return Prompt(place, messages=_read_messages(row["messages"], place))
    if not isinstance(row.get("prompt"), str):
        hint = "; messages are read with --chat" if "messages" in row else ""
        raise DataError(f'{place}: no text under "prompt"; here are {", ".join(map(str, row)) or "no fields"}{hint}')
    return Prompt(place, _whole(row["prompt"], place))


def _read_messages(messages: Any, place: str) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise DataError(f'{place}: "messages" holds no list of messages; write [{{"role": "user", "content": "Hello"}}]')
    for i, message in enumerate(messages):
        for name in ("role", "content"):
            text = message.get(name) if isinstance(message, dict) else None
            if not isinstance(text, str):
                raise DataError(f'{place}: messages[{i}] has no text under "{name}"; write {{"role": "user", "content": "Hello"}}')
            _whole(text, place, f"{name} in messages[{i}]")
    return messages


def _whole(text: str, place: str, what: str = "the prompt") -> str:
    """The text, unless it holds half a character, as JSON and the command line can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: character {error.start + 1} of {what} is half of one (a surrogate); write it whole") from None
    return text


def _value(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
