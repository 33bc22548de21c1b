"""Answer prompts with a JSON line each, in order. Batches of the available prompts are divided among the ranks."""

import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from tfkit import errors
from tfkit.engine.inference.prompt_lines import Prompt
from tfkit.errors import DataError, ModelError, Stopped

if TYPE_CHECKING:
    from tfkit.engine.inference.session import Session
    from tfkit.engine.inference.text_generator import TextCompletion, TextGenerator
    from tfkit.tokenizer.template import ChatTemplate

_Answer = Callable[[Sequence[Prompt], int], Sequence[dict[str, Any] | None]]  # None: interrupted by a signal


class _Answered(TypedDict):
    """The lines of a batch; `error`: the class and the message of an error that ended it early; `signal`: the number of one, or 0."""

    lines: list[dict[str, Any] | None]
    error: tuple[str, str] | None
    signal: int


def answer_prompts(
    generator: "TextGenerator", template: "ChatTemplate | None", batches: Iterator[list[Prompt]]
) -> Generator[tuple[Prompt, dict[str, Any]]]:
    """Yield each prompt with the fields of its JSON line (docs/cli.md), as soon as its batch is answered.

    `template`: the chat template, if prompts are conversations. An error in a prompt is raised after the lines of the prompts before it,
    and Stopped after a signal.
    """
    if generator.fills_masks:
        return _answer_all(batches, partial(_fill_lines, generator), generator.work, "filled")
    return _answer_all(batches, partial(_continue_lines, generator, template), generator.work, "continued")


def prompt_texts(generator: "TextGenerator", template: "ChatTemplate | None", prompts: Sequence[Prompt]) -> list[str]:
    """Return the text of each prompt or, with a template, of its conversation."""
    if template is None:
        return [one.text for one in prompts]
    with generator.work.stop.at_once():
        return [generator.conversation_text(template, one.conversation, one.tools, one.place) for one in prompts]


def line_of(completion: "TextCompletion") -> dict[str, Any]:
    """Return the fields that the JSON line has in addition to the prompt."""
    return {"completion": completion.text, "tokens": completion.tokens, "finish": completion.finish}


def _answer_all(batches: Iterator[list[Prompt]], answer: _Answer, work: "Session", done: str) -> Generator[tuple[Prompt, dict[str, Any]]]:
    """Yield the prompts with their lines. `answer` gets prompts and the number of the first; `done`: the participle for messages."""
    count = 0
    pending: deque[list[Prompt]] = deque()  # batches whose lines were not yielded yet

    def numbered() -> Iterator[tuple[int, list[Prompt]]]:
        first = 0
        while True:
            with work.stop.at_once(f"{count:,} prompts were {done}"):  # `next` may wait for a prompt
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
        answered["signal"] = getattr(work.stop, "requested", None) or 0
        return answered

    with work.listener.progress("generating", None, "prompts") as bar:
        for answered in work.deal(answer_batch, numbered()):
            batch, number = pending.popleft(), answered["signal"]
            for prompt, line in zip(batch, answered["lines"], strict=False):  # those before an error
                if line is None:
                    raise Stopped(f"stopped by {signal.Signals(number).name}: {count:,} prompts were {done}", number)
                yield prompt, line
                count += 1
            if answered["error"] is not None:
                kind, message = answered["error"]
                raise getattr(errors, kind)(message)
            bar.advance(len(batch))


def _answer_lines(batch: Sequence[Prompt], first: int, answer: _Answer) -> Iterator[dict[str, Any] | None]:
    try:
        lines = answer(batch, first)
    except (DataError, ModelError):  # of one of the prompts: those before it are answered
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
