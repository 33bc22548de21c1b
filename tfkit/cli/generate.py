"""tfkit generate: continue prompts. One prompt gives text; prompts from a file or stdin give JSON lines, in order."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.cli.answering import read_prompts, write_answers
from tfkit.cli.chat import converse
from tfkit.units import format_footprint

if TYPE_CHECKING:
    from tfkit.engine.answers.text_generator import TextGenerator
    from tfkit.engine.session import Session


def generate(
    checkpoint: options.Checkpoint,
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[-] [KEY=VALUE]...", help="-: prompts from stdin.")] = None,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="The text to continue.")] = None,
    input_: Annotated[
        str | None, typer.Option("--input", metavar="F", help='JSON lines with "prompt", or plain text with one prompt per line.')
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(metavar="N", help="At most so many new tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(metavar="T", help="The sampling temperature; 0 is greedy.")] = None,
    top_k: Annotated[int | None, typer.Option(metavar="K", help="Sample from the K most likely tokens only.")] = None,
    top_p: Annotated[float | None, typer.Option(metavar="P", help="Sample from the most likely tokens that hold this probability.")] = None,
    num_beams: Annotated[int | None, typer.Option(metavar="B", help="Beam search with B beams, without sampling.")] = None,
    stop: Annotated[list[str] | None, typer.Option(metavar="S", help="Stop where this text appears; may be repeated.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="S", help="The seed for sampling.")] = None,
    chat: options.Chat = False,
    run: options.RunFolder = None,
    no_verify: options.NoVerify = False,
    device: options.Device = None,
    threads: options.Threads = None,
    ranks: options.RankCount = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Continue text.

    --prompt gives the text with its continuation (with --json a JSON line); --input and - give one JSON line per prompt, in order, batch
    by batch. An encoder-decoder gives its own text alone. Settings that are not given are those of the run that made the checkpoint,
    else those of its generation_config.json. --run keeps the energy, in emissions.csv, in a run folder.

    A masked language model gives each prompt with its [MASK]s filled with the most likely tokens; nothing is sampled, and JSON lines hold
    the other candidates.

    With --chat each prompt is answered, as the checkpoint's own chat template has it; a JSON line may hold {"messages": [{"role": "user",
    "content": "Hello"}]}. On a terminal --chat alone is a conversation: Ctrl-C ends an answer, Ctrl-D the conversation.
    """
    from tfkit.cli.session import Execution, leading_session, open_to_lead
    from tfkit.engine.settings import PROMPTS_AT_ONCE, split_arguments

    words, overrides = split_arguments(arguments or ())
    overrides += _settings(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, num_beams=num_beams, seed=seed, stop=stop
    )

    def opened() -> "TextGenerator":
        from tfkit.engine.answers.text_generator import TextGenerator

        return TextGenerator(checkpoint, overrides, chat=chat, files=[Path(input_)] if input_ else [])

    def follow(generator: "TextGenerator", work: "Session") -> None:
        assert batches is not None
        generator.load(work)
        write_answers(generator, batches, None)

    alone = "" if input_ not in (None, "-") else "one prompt, and those from stdin, are for one process; give many in a file, --input F"
    how = Execution(run, device, threads, ranks)
    with ExitStack() as stack:
        batches = read_prompts(prompt, input_, words, chat, PROMPTS_AT_ONCE, stack)
        if (generator := open_to_lead(opened, follow, how, alone=alone)) is None:
            return
        work = stack.enter_context(leading_session("generate", generator, how))
        with work.stop.at_once():
            generator.load(work)
        if batches is None:
            count, tokens = 0, converse(generator, json_)
        else:
            count, tokens = write_answers(generator, batches, None if json_ else prompt)
        reading = work.reading()
        work.finish({"prompts": count, "tokens": tokens})
        if reading.status == "ok":
            console.say(f"{tokens:,} tokens, {format_footprint(reading.energy_wh, reading.emissions_g, reading.place)}")


def _settings(**options: float | list[str] | None) -> list[str]:
    """Return the options that are given as key=value of the section generation."""
    from tfkit.engine.settings import quoted

    given = {name: value for name, value in options.items() if value not in (None, [])}
    texts = {name: f"[{', '.join(map(quoted, value))}]" if isinstance(value, list) else str(value) for name, value in given.items()}
    return [f"generation.{name}={text}" for name, text in texts.items()]
