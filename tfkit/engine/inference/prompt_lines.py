"""Prompts, read from a file or a pipe as JSON lines or a text per line, and answered with a JSON line each, in their order.

A batch has the prompts that can be read without waiting for more, up to 128. The ranks divide the batches among themselves.
"""

import json
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict

from tfkit import errors
from tfkit.engine.inference.pipe import Pipe
from tfkit.engine.request.call_arguments import require_iterable
from tfkit.errors import DataError, ModelError, Stopped, UsageError, argument
from tfkit.units import format_number_of

if TYPE_CHECKING:
    from tfkit.engine.inference.text_generator import TextCompletion, TextGenerator
    from tfkit.tokenizer.template import ChatTemplate

_JSON, _TABLES = (".jsonl", ".ndjson", ".json"), (".csv", ".tsv", ".parquet")
_FEWEST_PROMPTS, MOST_PROMPTS = 16, 128  # the largest number of prompts in the first batch, and in any batch


@dataclass(frozen=True)
class Prompt:
    """A text to continue or fill; with --chat a user's message, or all messages of a conversation.

    `place`: its place, such as file and line. `given`: the fields of the prompt's JSON line, which the JSON line of the answer repeats.
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


def given_prompts(prompts: object, chat: bool) -> list[Prompt]:
    """Return the prompts of a call in Python. A prompt is a text or a dict with the fields of a JSON line; if `chat`, also a list of
    messages. Raises UsageError for anything else, DataError for a dict without a prompt.
    """
    given = [prompts] if isinstance(prompts, str | Mapping) else prompts
    each = require_iterable(given, "generate takes prompts", "a list of texts, such as [*table['prompt']]")
    return [_read_given(prompt, f"prompt {number}", chat) for number, prompt in enumerate(each, 1)]


def _read_given(prompt: object, place: str, chat: bool) -> Prompt:
    if isinstance(prompt, str):
        return prompt_of(place, prompt)
    if chat and isinstance(prompt, Sequence):
        return Prompt(place, {}, messages=_read_messages([*prompt], place))
    if not isinstance(prompt, Mapping):
        kinds = "a text, a list of messages or a dict" if chat else "a text or a dict"
        raise UsageError(f"{place}: a prompt is {kinds}, and this is of type {type(prompt).__name__}")
    return _read_row(dict(prompt), place, chat)


def prompt_batches(file: BinaryIO, place: str, chat: bool) -> Iterator[list[Prompt]]:
    """Yield the prompts in batches, a prompt for each line that is not blank. A batch from a pipe has the lines that have arrived.

    If the first line is a JSON object, or `place` is the name of a JSON file, all lines must be JSON objects; else each line is the text of
    a prompt. Raises DataError for a table, for no prompt at all, and for a bad line, after the batch of the lines before it.
    """
    suffix = PurePath(place).suffix.lower()
    if suffix in _TABLES:
        raise DataError(f'{place}: prompts are not read from a {suffix} file; write each as a line such as {{"prompt": "Once upon"}}')
    is_json: bool | None = True if suffix in _JSON else None
    has_prompt = False
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
        has_prompt = True
    if not has_prompt:
        raise DataError(f'{place}: there is no prompt; give lines such as {{"prompt": "Once upon"}}, or one prompt per line')


def prompts_in_batch(number: int) -> int:
    """Return the largest number of prompts in batch `number` (the first is 0): few at first, for quick first answers, and twice as many
    after every second batch, so that two ranks get batches of the same size.
    """
    return min(_FEWEST_PROMPTS << number // 2, MOST_PROMPTS)


def _lines(pipe: Pipe) -> Iterator[list[tuple[int, bytes]]]:
    """Yield batches of the lines that are not blank, with their line numbers. Only a batch's first line is waited for."""
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
        raise DataError(f'{place}: not a JSON object; write {{"prompt": ...}} in every line')
    if chat and "messages" in row:
        return Prompt(place, row, messages=_read_messages(row["messages"], place), tools=row.get("tools"))
    if not isinstance(row.get("prompt"), str):
        hint = f"; messages are read with {argument('chat', True)}" if "messages" in row else ""
        hint = '; a message is an item of the list "messages"' if chat and "role" in row else hint
        found = f"its fields are {', '.join(map(str, row)) or 'none'}"
        if "prompt" in row:
            found = f"it is {json.dumps(row['prompt'], default=str)[:60]}"  # a call in Python may give values that JSON lacks
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
    """Return the text. Raises DataError for half a character (a surrogate), which JSON and the command line allow."""
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


# Takes a batch and the index of its first prompt. Returns, for each prompt, the fields of its answer, or None if a signal interrupted it.
_Answer = Callable[[Sequence[Prompt], int], Sequence[dict[str, Any] | None]]


class _Answered(TypedDict):
    """The answers to a batch, as a JSON value. `error`: the class and the message of the error that ended the batch; None: no error.
    `signal`: the number of the signal that asked this rank to stop, or 0.
    """

    lines: list[dict[str, Any] | None]
    error: tuple[str, str] | None
    signal: int


def answer_prompts(
    generator: "TextGenerator", template: "ChatTemplate | None", batches: Iterator[list[Prompt]]
) -> Generator[tuple[Prompt, dict[str, Any]]]:
    """Yield each prompt with the fields that its answer adds to its JSON line, in prompt order, as soon as its batch is answered.

    `template`: the chat template, if prompts are conversations. Raises a prompt's error after the earlier answers; Stopped for a signal.
    """
    session, done = generator.session, "filled" if generator.fills_masks else "continued"
    answer: _Answer = partial(_fill_lines, generator) if generator.fills_masks else partial(_continue_lines, generator, template)
    count = 0
    pending: deque[list[Prompt]] = deque()  # batches whose answers are not yielded yet

    def numbered() -> Iterator[tuple[int, list[Prompt]]]:
        first = 0
        while True:
            with session.stop.at_once(f"{format_number_of(count, 'prompt')} {done}"):  # `next` may wait for a prompt
                batch = next(batches, None)
            if batch is None:
                return
            pending.append(batch)
            yield first, batch
            first += len(batch)

    def answer_batch(numbered_batch: tuple[int, list[Prompt]]) -> _Answered:
        first, batch = numbered_batch
        answered: _Answered = {"lines": [], "error": None, "signal": 0}
        try:
            for line in _answer_lines(batch, first, answer):
                answered["lines"].append(line)
        except (DataError, ModelError) as error:
            answered["error"] = type(error).__name__, str(error)
        answered["signal"] = getattr(session.stop, "requested", None) or 0
        return answered

    with session.listener.progress("generating", None, "prompts") as bar:
        for answered in session.deal(answer_batch, numbered()):
            batch, number = pending.popleft(), answered["signal"]
            for prompt, line in zip(batch, answered["lines"], strict=False):  # after an error, there are fewer lines than prompts
                if line is None:
                    raise Stopped(f"stopped by {signal.Signals(number).name}: {format_number_of(count, 'prompt')} {done}", number)
                yield prompt, line
                count += 1
            if answered["error"] is not None:
                kind, message = answered["error"]
                raise getattr(errors, kind)(message)
            bar.advance(len(batch))


def prompt_texts(generator: "TextGenerator", template: "ChatTemplate | None", prompts: Sequence[Prompt]) -> list[str]:
    """Return the text of each prompt or, with a template, of its conversation."""
    if template is None:
        return [one.text for one in prompts]
    with generator.session.stop.at_once():
        return [generator.conversation_text(template, one.conversation, one.tools, one.place) for one in prompts]


def line_of(completion: "TextCompletion") -> dict[str, Any]:
    """Return the fields that the JSON line of an answer has in addition to those of the prompt."""
    return {"completion": completion.text, "tokens": completion.tokens, "finish": completion.finish}


def _answer_lines(batch: Sequence[Prompt], first: int, answer: _Answer) -> Iterator[dict[str, Any] | None]:
    try:
        lines = answer(batch, first)
    except (DataError, ModelError):  # one of the prompts is bad: halve the batch, in order to answer the prompts before the bad one
        if len(batch) == 1:
            raise
        half = len(batch) // 2
        yield from _answer_lines(batch[:half], first, answer)
        yield from _answer_lines(batch[half:], first + half, answer)
    else:
        yield from lines


def _continue_lines(
    generator: "TextGenerator", template: "ChatTemplate | None", prompts: Sequence[Prompt], first: int
) -> list[dict[str, Any] | None]:
    completions = generator.complete(prompt_texts(generator, template, prompts), first)
    return [None if completion.finish == "interrupted" else line_of(completion) for completion in completions]


def _fill_lines(generator: "TextGenerator", prompts: Sequence[Prompt], first: int) -> list[dict[str, Any]]:
    return [
        {
            "completion": filling.text,
            "tokens": len(filling.candidates),
            "finish": "stop",
            "candidates": [[asdict(candidate) for candidate in row] for row in filling.candidates],
        }
        for filling in generator.fill([prompt.text for prompt in prompts], first)
    ]
