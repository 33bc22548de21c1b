"""tfkit generate --chat on a terminal: a conversation."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tfkit import console
from tfkit.cli.generation_io import write_line
from tfkit.engine.inference.answered_prompts import line_of
from tfkit.engine.inference.prompt_lines import prompt_of

if TYPE_CHECKING:
    from tfkit.engine.inference.session import Session
    from tfkit.engine.inference.text_generator import TextCompletion, TextGenerator


def converse(generator: "TextGenerator", as_json: bool) -> int:
    """Answer the user's messages until Ctrl-D, or Ctrl-C at the prompt; Ctrl-C ends an answer. Return the number of new tokens."""
    messages: list[dict[str, Any]] = []
    tokens = 0
    work = generator.work
    with generator.template() as template:
        while (message := _read_message(work)) is not None:
            messages.append({"role": "user", "content": message})
            text = template.render(messages, add_generation_prompt=True)
            completion = _answer(generator, text, len(messages), as_json)
            if as_json:
                write_line(prompt_of("", message), line_of(completion))
            messages.append({"role": "assistant", "content": completion.text})
            tokens += completion.tokens
    return tokens


def _read_message(work: "Session") -> str | None:
    """Return the next line that is not empty; None at the end of the input."""
    with work.stop.at_once("the conversation is over"):
        while (line := console.ask("> ")) is not None:
            if line.strip():
                return line
    return None


def _answer(generator: "TextGenerator", text: str, turn: int, as_json: bool) -> "TextCompletion":
    """Generate the model's turn, and write it as tokens arrive."""
    work = generator.work

    def on_text(_row: int, piece: str) -> None:
        if not as_json:
            console.piece(piece)

    with _catching_ctrl_c() as pressed:
        [completion] = generator.complete([text], turn - 1, on_text, lambda: pressed() or work.should_stop())
    if not as_json:
        console.result("")
    work.stop.raise_if_requested("the answer is not complete")
    return completion


@contextmanager
def _catching_ctrl_c() -> Iterator[Callable[[], bool]]:
    """Catch Ctrl-C in the block. Yield a function that returns whether it was pressed."""
    pressed = threading.Event()
    previous = signal.signal(signal.SIGINT, lambda number, frame: pressed.set())
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
