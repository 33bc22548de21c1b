"""tfkit generate: continue prompts. One prompt gives text; prompts from a file or stdin give JSON lines, in order."""

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.cli.generation_io import converse, read_prompts, write_answers

if TYPE_CHECKING:
    from tfkit.engine.inference.session import Session
    from tfkit.engine.inference.text_generator import TextGenerator


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The options that set fields of a recipe's section generation."""

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
        """Return the given options as overrides."""
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
    from tfkit.cli.session import leading_session, open_as_leader
    from tfkit.recipe.reading.overrides import followed_by, parse_overrides

    words, changes = options.split_arguments(arguments or ())

    def open_generator() -> "TextGenerator":
        from tfkit.engine.inference.text_generator import TextGenerator

        overrides = followed_by(parse_overrides(changes), sampling.overrides())
        return TextGenerator(checkpoint, overrides, chat=chat, files=[Path(input_)] if input_ else [], precision=precision)

    def follow(generator: "TextGenerator", work: "Session") -> None:
        assert batches is not None
        generator.load(work)
        write_answers(generator, batches, None)

    is_file = input_ not in (None, "-")
    one = "a single prompt, and prompts from stdin, are processed by one process; give several prompts in a file, --input F"
    with ExitStack() as stack:
        batches = read_prompts(prompt, input_, words, chat, stack)
        if (generator := open_as_leader(open_generator, follow, execution, refuse_ranks="" if is_file else one)) is None:
            return
        work = stack.enter_context(leading_session("generate", generator, execution))
        with work.stop.at_once():
            generator.load(work)
        if batches is None:
            count, tokens = 0, converse(generator, json_)
        else:
            count, tokens = write_answers(generator, batches, None if json_ else prompt)
        reading = work.reading()
        work.finish({"prompts": count, "tokens": tokens})
        if reading.status == "ok":
            console.say(f"{tokens:,} tokens, {reading.text}")
