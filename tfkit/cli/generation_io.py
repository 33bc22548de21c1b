"""Input and output of generate: one prompt, continued on a terminal as tokens arrive; many, from a file or stdin, as JSON lines; or a
conversation, --chat on a terminal.
"""

import io
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from tfkit import console
from tfkit.engine.inference.answered_prompts import answer_prompts, line_of, prompt_texts
from tfkit.engine.inference.predictions_file import json_line
from tfkit.engine.inference.prompt_lines import Prompt, prompt_batches, prompt_of
from tfkit.errors import DataError, UsageError
from tfkit.run.signals import forwarded

if TYPE_CHECKING:
    from tfkit.engine.inference.session import Session
    from tfkit.engine.inference.text_generator import TextCompletion, TextGenerator


def read_prompts(prompt: str | None, path: str | None, words: Sequence[str], chat: bool, stack: ExitStack) -> Iterator[list[Prompt]] | None:
    """Return the prompts in batches, read lazily; a file is opened now, and closed by `stack`.

    A batch from a pipe holds the lines that have arrived: no line waits for the next. None only with --chat on a terminal, where a
    conversation begins. Raises UsageError, DataError; an error in a line is raised after the batch of the lines before it.
    """
    unknown = [word for word in words if word != "-"]
    if unknown:
        raise UsageError(f"generate does not know {unknown[0]!r}: give a prompt as --prompt TEXT, and changes as key=value")
    sources = {"--prompt": prompt is not None, "--input": path is not None, "-": bool(words)}
    given = [name for name, is_given in sources.items() if is_given]
    if chat and not given and sys.stdin is not None and sys.stdin.isatty():
        return None
    if len(given) != 1:
        raise UsageError(
            "generate takes exactly one of --prompt TEXT, --input F, and - for stdin"
            + (f", not {' and '.join(given)}" if given else "; on a terminal, --chat alone is a conversation" if chat else "")
        )
    if prompt is not None:
        return iter([[prompt_of("--prompt", prompt)]])
    if path not in (None, "-"):
        try:
            file = stack.enter_context(io.FileIO(str(path)))
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}; --input takes a file of prompts") from error
        return prompt_batches(file, str(path), chat)
    if sys.stdin is None:
        raise DataError("stdin: closed, so no prompt can be read from it; give --prompt TEXT or --input F")
    return prompt_batches(getattr(sys.stdin.buffer, "raw", sys.stdin.buffer), "stdin", chat)


def _write_line(prompt: Prompt, answer: dict[str, Any]) -> None:
    """Write the JSON line of docs/cli.md: the fields of the input, and those of the answer."""
    console.json(json_line(prompt.given | answer))


def write_answers(generator: "TextGenerator", batches: Iterator[list[Prompt]], text: str | None) -> tuple[int, int]:
    """Answer the prompts; return the numbers of prompts and new tokens. `text`: the only prompt, whose answer is written as text."""
    count = tokens = 0
    with ExitStack() as stack:
        with generator.work.stop.at_once():
            template = stack.enter_context(generator.template()) if generator.chat else None
        if text is not None and generator.fills_masks:
            [filling] = generator.fill([text])
            console.piece(f"{filling.text}\n")
            return 1, len(filling.candidates)
        if text is not None:
            [rendered] = prompt_texts(generator, template, next(batches))
            return 1, _write_text(generator, text if generator.continues_prompts else "", rendered)
        for prompt, line in stack.enter_context(closing(answer_prompts(generator, template, batches))):
            if generator.work.ranks.is_first:
                _write_line(prompt, line)
            count += 1
            tokens += line["tokens"]
    return count, tokens


def _write_text(generator: "TextGenerator", shown: str, text: str) -> int:
    """Write `shown` and the continuation of `text`, on a terminal as tokens arrive. Return the number of new tokens."""
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
        console.piece(f"{shown}{completion.text}\n")
    generator.work.stop.raise_if_requested("the continuation is not complete")
    return completion.tokens


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
                _write_line(prompt_of("", message), line_of(completion))
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

    pressed = threading.Event()
    with forwarded(lambda _: pressed.set(), (signal.SIGINT,)):
        [completion] = generator.complete([text], turn - 1, on_text, lambda: pressed.is_set() or work.should_stop())
    if not as_json:
        console.result("")
    work.stop.raise_if_requested("the answer is not complete")
    return completion
