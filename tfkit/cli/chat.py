"""tfkit generate --chat: the checkpoint's chat template around prompts, and conversations on a terminal."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tfkit import console
from tfkit.cli.prompts import Prompt, write_line
from tfkit.tokenizer.template import ChatTemplate, open_template

if TYPE_CHECKING:
    from tfkit.engine.session import Session
    from tfkit.generation.complete import TextCompletion
    from tfkit.hub import Loaded

ContinueTexts = Callable[..., list["TextCompletion"]]  # complete() with the model, the tokenizer and the settings filled in


def render(template: ChatTemplate, prompt: Prompt) -> str:
    """The text of a conversation, up to where its answer begins. Raises ModelError if the template fails."""
    return template.render(prompt.conversation, add_generation_prompt=True, place=prompt.place)


def answer_ends(loaded: "Loaded") -> list[int]:
    """The ids that end an answer: those that end a text, and the tokenizer's eos, where some models that were trained for conversations
    say the end of a turn.
    """
    assert loaded.codec is not None
    return [end for end in dict.fromkeys([*loaded.eos_ids, loaded.codec.eos_id]) if end is not None]


def converse(continue_texts: ContinueTexts, loaded: "Loaded", work: "Session", as_json: bool) -> int:
    """Answer what is typed until Ctrl-D, or Ctrl-C at the prompt; Ctrl-C in an answer ends the answer. Gives the tokens made."""
    assert loaded.codec is not None
    messages: list[dict[str, Any]] = []
    tokens = 0
    with open_template(loaded.codec, loaded.folder) as template:
        while (said := _listen(work)) is not None:
            messages.append({"role": "user", "content": said})
            text = template.render(messages, add_generation_prompt=True)
            completion = _answer(continue_texts, text, len(messages), work, as_json)
            if as_json:
                write_line(Prompt("", said), completion)
            messages.append({"role": "assistant", "content": completion.text})
            tokens += completion.tokens
    return tokens


def _listen(work: "Session") -> str | None:
    """The next line that is not empty; None at the end."""
    with work.stop.at_once("the conversation is over"):
        while (line := console.ask("> ")) is not None:
            if line.strip():
                return line
    return None


def _answer(continue_texts: ContinueTexts, text: str, turn: int, work: "Session", as_json: bool) -> "TextCompletion":
    """The model's turn, written as it is made."""

    def on_text(_row: int, piece: str) -> None:
        if not as_json:
            console.piece(piece)

    with _ctrl_c() as pressed:
        [completion] = continue_texts([text], first_row=turn - 1, on_text=on_text, should_stop=lambda: pressed() or work.should_stop())
    if not as_json:
        console.result("")
    work.stop.raise_if_requested("the answer is not whole")
    return completion


@contextmanager
def _ctrl_c() -> Iterator[Callable[[], bool]]:
    """Inside, Ctrl-C does nothing but make what this gives return true."""
    pressed = threading.Event()
    previous = signal.signal(signal.SIGINT, lambda number, frame: pressed.set())
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
