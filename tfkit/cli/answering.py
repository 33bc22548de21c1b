"""Prompts as they come -> a JSON line each, in order: in batches of what is there, so that a pipe is answered while it is open."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tfkit import console
from tfkit.cli.prompts import Prompt
from tfkit.errors import DataError, ModelError

if TYPE_CHECKING:
    from tfkit.engine.session import Session

Answer = Callable[[Sequence[Prompt], int], Sequence[dict[str, Any] | None]]  # None: interrupted by a signal


def answer_lines(batches: Iterator[list[Prompt]], answer: Answer, work: "Session", done: str) -> tuple[int, int]:
    """Write the line of each prompt as soon as its batch is answered; return the prompts and the tokens made.

    `answer` gets prompts and the number of the first. An error in a prompt ends it after the lines of those before. `done`: what was done
    with a prompt, for messages.
    """
    count = tokens = 0
    with console.progress("generating", None, "prompts") as bar:
        while True:
            with work.stop.at_once(f"{count:,} prompts were {done}"):  # which may wait for a prompt
                batch = next(batches, None)
            if batch is None:
                return count, tokens
            for prompt, line in zip(batch, _answers(batch, count, answer), strict=True):
                if line is None:
                    work.stop.raise_if_requested(f"{count:,} prompts were {done}")
                    return count, tokens
                console.json(prompt.given | line)
                count += 1
                tokens += line["tokens"]
            bar.advance(len(batch))


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
