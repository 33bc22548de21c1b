"""A JSON line for each prompt, in order: the prompts are dealt to the ranks in batches of those that are there."""

import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from tfkit import errors
from tfkit.engine.answers.prompt_lines import Prompt
from tfkit.errors import DataError, ModelError, Stopped

if TYPE_CHECKING:
    from tfkit.engine.answers.text_generator import TextCompletion, TextGenerator
    from tfkit.engine.session import Session
    from tfkit.tokenizer.template import ChatTemplate

_Answer = Callable[[Sequence[Prompt], int], Sequence[dict[str, Any] | None]]  # None: interrupted by a signal


class _Answered(TypedDict):
    """The lines of a batch; `error`: the class and the message of what ended it before its end; `signal`: the number of one that came."""

    lines: list[dict[str, Any] | None]
    error: tuple[str, str] | None
    signal: int


def answer_prompts(
    generator: "TextGenerator", template: "ChatTemplate | None", batches: Iterator[list[Prompt]]
) -> Generator[tuple[Prompt, dict[str, Any]]]:
    """Yield each prompt with the fields of its JSON line (docs/cli.md), as soon as its batch is answered.

    `template`: of a chat. An error in a prompt is raised after the lines of those before; Stopped where a signal came.
    """
    if generator.fills_masks:
        return _dealt(batches, partial(_fill_lines, generator), generator.work, "filled")
    return _dealt(batches, partial(_continue_lines, generator, template), generator.work, "continued")


def prompt_texts(generator: "TextGenerator", template: "ChatTemplate | None", prompts: Sequence[Prompt]) -> list[str]:
    """Return the texts to continue: with a template each is a conversation."""
    if template is None:
        return [one.text for one in prompts]
    with generator.work.stop.at_once():
        return [generator.conversation_text(template, one.conversation, one.tools, one.place) for one in prompts]


def line_of(completion: "TextCompletion") -> dict[str, Any]:
    """Return the fields of the JSON line beside the prompt."""
    return {"completion": completion.text, "tokens": completion.tokens, "finish": completion.finish}


def _dealt(batches: Iterator[list[Prompt]], answer: _Answer, work: "Session", done: str) -> Generator[tuple[Prompt, dict[str, Any]]]:
    """Yield the prompts with their lines. `answer` gets prompts and the number of the first; `done`: what was done, for messages."""
    count = 0
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

    with work.listener.progress("generating", None, "prompts") as bar:
        for found in work.deal(answered, numbered()):
            batch = taken.popleft()
            for prompt, line in zip(batch, found["lines"], strict=False):  # those before an error
                if line is None:
                    raise Stopped(f"stopped by {signal.Signals(found['signal']).name}: {count:,} prompts were {done}", found["signal"])
                yield prompt, line
                count += 1
            if found["error"] is not None:
                kind, message = found["error"]
                raise getattr(errors, kind)(message)
            bar.advance(len(batch))


def _answers(batch: Sequence[Prompt], first: int, answer: _Answer) -> Iterator[dict[str, Any] | None]:
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
