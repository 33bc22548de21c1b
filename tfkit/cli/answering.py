"""The output of generate: text, on a terminal as it is made; or a JSON line a prompt, in order, in batches of those that are there."""

import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from tfkit import console, errors
from tfkit.cli.prompts import Prompt, line_of, write_line
from tfkit.errors import DataError, ModelError, Stopped

if TYPE_CHECKING:
    from tfkit.engine.session import Session
    from tfkit.engine.text_generator import TextGenerator

Answer = Callable[[Sequence[Prompt], int], Sequence[dict[str, Any] | None]]  # None: interrupted by a signal


class _Answered(TypedDict):
    """The lines of a batch; `error`: the class and the message of what ended it before its end; `signal`: the number of one that came."""

    lines: list[dict[str, Any] | None]
    error: tuple[str, str] | None
    signal: int


def write_answers(generator: "TextGenerator", batches: Iterator[list[Prompt]], text: str | None) -> tuple[int, int]:
    """Answer the prompts; return their number and that of the tokens made. `text`: the only prompt, whose answer is written as text."""
    work = generator.work
    with ExitStack() as stack:
        with work.stop.at_once():
            template = stack.enter_context(generator.template()) if generator.chat else None

        def texts_of(prompts: Sequence[Prompt]) -> list[str]:
            if template is None:
                return [one.text for one in prompts]
            with work.stop.at_once():
                return [generator.conversation_text(template, one.conversation, one.tools, one.place) for one in prompts]

        if text is not None and generator.fills_masks:
            [filling] = generator.fill([text])
            console.result(filling.text)
            return 1, len(filling.candidates)
        if text is not None:
            [continued] = texts_of(next(batches))
            return 1, _write_text(generator, text if generator.continues_prompts else "", continued)
        if generator.fills_masks:
            return _answer_lines(batches, partial(_fill_lines, generator), work, "filled")
        return _answer_lines(batches, partial(_continue_lines, generator, texts_of), work, "continued")


def _answer_lines(batches: Iterator[list[Prompt]], answer: Answer, work: "Session", done: str) -> tuple[int, int]:
    """Write the line of each prompt as soon as its batch is answered; return the prompts and the tokens made.

    `answer` gets prompts and the number of the first. An error in a prompt ends it after the lines of those before. `done`: what was done
    with a prompt, for messages.
    """
    count = tokens = 0
    taken: deque[list[Prompt]] = deque()  # whose lines are not written yet

    def numbered() -> Iterator[tuple[int, list[Prompt]]]:
        first = 0
        while True:
            with work.stop.at_once(f"{count:,} prompts were {done}"):  # which may wait for a prompt
                batch = next(batches, None)
            if batch is None:
                return
            taken.append(batch)
            yield first, batch
            first += len(batch)

    def answered(numbered_batch: tuple[int, list[Prompt]]) -> _Answered:
        first, batch = numbered_batch
        found: _Answered = {"lines": [], "error": None, "signal": 0}
        try:
            for line in _answers(batch, first, answer):
                found["lines"].append(line)
        except (DataError, ModelError) as error:
            found["error"] = type(error).__name__, str(error)
        found["signal"] = getattr(work.stop, "requested", None) or 0
        return found

    with console.progress("generating", None, "prompts") as bar:
        for found in work.deal(answered, numbered()):
            batch = taken.popleft()
            for prompt, line in zip(batch, found["lines"], strict=False):  # those before an error
                if line is None:
                    raise Stopped(f"stopped by {signal.Signals(found['signal']).name}: {count:,} prompts were {done}", found["signal"])
                if work.ranks.is_first:
                    write_line(prompt, line)
                count += 1
                tokens += line["tokens"]
            if found["error"] is not None:
                kind, message = found["error"]
                raise getattr(errors, kind)(message)
            bar.advance(len(batch))
    return count, tokens


def _answers(batch: Sequence[Prompt], first: int, answer: Answer) -> Iterator[dict[str, Any] | None]:
    try:
        answered = answer(batch, first)
    except (DataError, ModelError):  # in one of them: those before it are answered alone
        if len(batch) == 1:
            raise
        for number, prompt in enumerate(batch, first):
            yield from answer([prompt], number)
    else:
        yield from answered


def _continue_lines(
    generator: "TextGenerator", texts_of: Callable[[Sequence[Prompt]], list[str]], prompts: Sequence[Prompt], first: int
) -> list[dict[str, Any] | None]:
    """Return the JSON line of docs/cli.md for each prompt; `first`: the number of the first."""
    completions = generator.complete(texts_of(prompts), first)
    return [None if completion.finish == "interrupted" else line_of(completion) for completion in completions]


def _fill_lines(generator: "TextGenerator", prompts: Sequence[Prompt], first: int) -> list[dict[str, Any]]:
    """Return the JSON line of docs/cli.md for each prompt whose masks are filled, with the candidates."""
    return [
        {
            "completion": filling.text,
            "tokens": len(filling.candidates),
            "finish": "stop",
            "candidates": [[asdict(candidate) for candidate in row] for row in filling.candidates],
        }
        for filling in generator.fill([prompt.text for prompt in prompts], first)
    ]


def _write_text(generator: "TextGenerator", shown: str, text: str) -> int:
    """Write `shown` and the continuation of `text`, on a terminal as it is made. Return the number of new tokens."""
    live = sys.stdout is not None and sys.stdout.isatty()
    if live:
        console.piece(shown)

    def on_text(_row: int, piece: str) -> None:
        if live:
            console.piece(piece)

    [completion] = generator.complete([text], on_text=on_text)
    if live:
        console.result("")
    elif completion.finish != "interrupted":
        console.result(shown + completion.text)
    generator.work.stop.raise_if_requested("the continuation is not whole")
    return completion.tokens
