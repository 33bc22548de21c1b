"""The command tfkit generate, which continues prompts.

The output for a single prompt is text (with --json a JSON line), on a terminal token by token. Prompts from a file or stdin give JSON
lines, in the order of the prompts. --chat without prompts is a conversation on the terminal.
"""

import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.engine.inference.predictions_file import json_line
from tfkit.engine.inference.prompt_lines import Prompt, answer_prompts, line_of, prompt_batches, prompt_of, prompt_texts
from tfkit.errors import DataError, UsageError
from tfkit.run.signals import forwarded

if TYPE_CHECKING:
    from tfkit.engine.inference.session import Session
    from tfkit.engine.inference.text_generator import TextCompletion, TextGenerator

EXAMPLES = (
    'tfkit generate --from runs/demo --prompt "def read_lines(path):"',
    "tfkit generate --from hub:HuggingFaceTB/SmolLM2-135M-Instruct --chat",
    "tfkit generate --from runs/demo --input prompts.jsonl --temperature 0 > texts.jsonl",
)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The options that set fields of a recipe's section `generation`."""

    max_new_tokens: Annotated[int | None, typer.Option(metavar="N", help="Generate at most N tokens.")] = None
    temperature: Annotated[float | None, typer.Option(metavar="T", help="The sampling temperature; 0 is greedy.")] = None
    top_k: Annotated[int | None, typer.Option(metavar="K", help="Sample from the K most likely tokens only.")] = None
    top_p: Annotated[
        float | None, typer.Option(metavar="P", help="Sample from the most likely tokens whose probabilities add up to P.")
    ] = None
    num_beams: Annotated[int | None, typer.Option(metavar="B", help="Use beam search with B beams, without sampling.")] = None
    stop: Annotated[list[str] | None, typer.Option(metavar="S", help="Stop at this text; may be repeated.")] = None
    seed: Annotated[int | None, typer.Option(metavar="S", help="The seed for sampling.")] = None

    def overrides(self) -> dict[str, Any]:
        """Return the options that are set, as overrides by dotted name, such as generation.top_k."""
        return {f"generation.{name}": value for name, value in asdict(self).items() if value not in (None, [])}


def generate(
    checkpoint: options.Checkpoint,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-] [KEY=VALUE]...", help="- reads prompts from stdin; KEY=VALUE changes a setting.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="The text to continue.")] = None,
    input_: Annotated[
        str | None, typer.Option("--input", metavar="F", help='JSON lines with "prompt", or plain text with one prompt per line.')
    ] = None,
    *,
    sampling: Sampling,
    chat: options.Chat = False,
    precision: options.Precision = "auto",
    execution: options.Execution,
    json_: options.Json = False,
) -> None:
    """Continue text.

    With --prompt the output is the prompt with its continuation (with --json a JSON line); with --input or - it is one JSON line per
    prompt, in order, batch by batch. An encoder-decoder writes only its own text. --run keeps the energy in a run folder, in emissions.csv.

    Settings are those of the checkpoint's generation_config.json, with transformers' meaning: without do_sample, the likeliest token is
    taken each time. Options change them, and a line on stderr says what holds. A model that tfkit trained from random weights samples.

    A masked language model fills the [MASK]s of each prompt with the most likely tokens; nothing is sampled, and JSON lines have the
    other candidates.

    With --chat each prompt is answered, using the checkpoint's own chat template; a JSON line may have {"messages": [{"role": "user",
    "content": "Hello"}]}. On a terminal, --chat alone starts a conversation: Ctrl-C ends an answer, Ctrl-D the conversation.
    """
    from tfkit.cli.session import command_session, open_as_leader
    from tfkit.recipe.reading.overrides import followed_by, parse_overrides

    words, changes = options.split_arguments(arguments or ())

    def open_generator() -> "TextGenerator":
        from tfkit.engine.inference.text_generator import TextGenerator

        overrides = followed_by(parse_overrides(changes), sampling.overrides())
        return TextGenerator(checkpoint, overrides, chat=chat, files=[Path(input_)] if input_ else [], precision=precision)

    def follow(generator: "TextGenerator", session: "Session") -> None:
        assert batches is not None
        generator.load(session)
        _write_answers(generator, batches, None)

    is_file = input_ not in (None, "-")
    one = "a single prompt, and prompts from stdin, are processed by one process; give several prompts in a file, --input F"
    with ExitStack() as stack:
        batches = _read_prompts(prompt, input_, words, chat, stack)
        if (generator := open_as_leader(open_generator, follow, execution, refuse_ranks="" if is_file else one)) is None:
            return
        session = stack.enter_context(command_session("generate", generator.settings.carbon, execution))
        with session.stop.at_once():
            generator.load(session)
        if batches is None:
            count, tokens = 0, _converse(generator, json_)
        else:
            count, tokens = _write_answers(generator, batches, None if json_ else prompt)
        reading = session.reading()
        session.finish({"prompts": count, "tokens": tokens})
        if reading.status == "ok":
            console.say(f"{tokens:,} tokens, {reading.text}")


def _read_prompts(
    prompt: str | None, path: str | None, words: Sequence[str], chat: bool, stack: ExitStack
) -> Iterator[list[Prompt]] | None:
    """Return the prompts in batches, which are read lazily; None for a conversation, which --chat alone begins on a terminal.

    A file is opened in this call, and closed by `stack`. A batch from a pipe has the lines that have arrived, so that no prompt waits for
    later ones. Raises UsageError or DataError. An error in a line is raised only when all earlier lines have been returned.
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
    from tfkit.cli.session import stdin_bytes

    return prompt_batches(stdin_bytes("prompt", "--prompt TEXT or --input F"), "stdin", chat)


def _write_answers(generator: "TextGenerator", batches: Iterator[list[Prompt]], text: str | None) -> tuple[int, int]:
    """Answer prompts, and return the numbers of prompts and of new tokens. `text`: the only prompt, answered as text; None: JSON lines."""
    count = tokens = 0
    with ExitStack() as stack:
        with generator.session.stop.at_once():
            template = stack.enter_context(generator.template()) if generator.chat else None
        if text is not None and generator.fills_masks:
            [filling] = generator.fill([text])
            console.piece(f"{filling.text}\n")
            return 1, len(filling.candidates)
        if text is not None:
            [rendered] = prompt_texts(generator, template, next(batches))
            return 1, _write_text(generator, text if generator.continues_prompts else "", rendered)
        for prompt, line in stack.enter_context(closing(answer_prompts(generator, template, batches))):
            if generator.session.ranks.is_first:
                console.json(json_line(prompt.given | line))
            count += 1
            tokens += line["tokens"]
    return count, tokens


def _write_text(generator: "TextGenerator", shown: str, text: str) -> int:
    """Write `shown` and then the continuation of `text`, on a terminal token by token. Return the number of new tokens."""
    live = sys.stdout is not None and sys.stdout.isatty()
    if live:
        console.piece(shown)
    completion = _complete(generator, text, live=live)
    if not live and completion.finish != "interrupted":
        console.piece(f"{shown}{completion.text}\n")
    generator.session.stop.raise_if_requested("the continuation is not complete")
    return completion.tokens


def _converse(generator: "TextGenerator", as_json: bool) -> int:
    """Answer messages until Ctrl-D, or Ctrl-C at the prompt; Ctrl-C in an answer ends only the answer. Return the number of new tokens."""
    messages: list[dict[str, Any]] = []
    tokens = 0
    session, pressed = generator.session, threading.Event()
    with generator.template() as template:
        while (message := _read_message(session)) is not None:
            messages.append({"role": "user", "content": message})
            text, row = template.render(messages, add_generation_prompt=True), len(messages) - 1
            pressed.clear()
            with forwarded(lambda _: pressed.set(), (signal.SIGINT,)):
                completion = _complete(generator, text, row, lambda: pressed.is_set() or session.stop.should_stop(), live=not as_json)
            session.stop.raise_if_requested("the answer is not complete")
            if as_json:
                console.json(json_line({"prompt": message} | line_of(completion)))
            messages.append({"role": "assistant", "content": completion.text})
            tokens += completion.tokens
    return tokens


def _read_message(session: "Session") -> str | None:
    """Return the next line that the user types and that is not blank; None at the end of the input."""
    with session.stop.at_once("the conversation is over"):
        while (line := console.ask("> ")) is not None:
            if line.strip():
                return line
    return None


def _complete(
    generator: "TextGenerator", text: str, row: int = 0, should_stop: Callable[[], bool] | None = None, *, live: bool
) -> "TextCompletion":
    """Continue a text; if `live`, write the continuation token by token. `row`: the text's index, which its random numbers depend on."""
    [completion] = generator.complete([text], row, lambda _, piece: console.piece(piece) if live else None, should_stop)
    if live:
        console.result("")
    return completion
