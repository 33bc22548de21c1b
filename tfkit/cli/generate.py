"""tfkit generate: continue prompts. One prompt gives text; prompts from a file or stdin give JSON lines, in order."""

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.cli.prompts import Prompt, line_of, read_prompts
from tfkit.errors import ModelError
from tfkit.units import format_energy, format_mass

if TYPE_CHECKING:
    from tfkit.cli.chat import ContinueTexts
    from tfkit.engine.session import Session
    from tfkit.engine.settings import Settings
    from tfkit.generation.config_file import CheckpointSettings
    from tfkit.hub import Loaded

_SECTIONS = ("generation", "carbon")
_BATCH = 16  # prompts that are continued at once


def generate(
    checkpoint: options.Checkpoint,
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[-] [KEY=VALUE]...", help="-: prompts from stdin.")] = None,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="The text to continue.")] = None,
    input_: Annotated[str | None, typer.Option("--input", metavar="F", help='JSON lines with "prompt", or a prompt a line.')] = None,
    max_new_tokens: Annotated[int | None, typer.Option(metavar="N", help="The longest continuation.")] = None,
    temperature: Annotated[float | None, typer.Option(metavar="T", help="Divides the logits; 0 is greedy.")] = None,
    top_k: Annotated[int | None, typer.Option(metavar="K", help="Draw from the K likeliest tokens only.")] = None,
    top_p: Annotated[float | None, typer.Option(metavar="P", help="Draw from the likeliest that hold this share.")] = None,
    num_beams: Annotated[int | None, typer.Option(metavar="B", help="Beam search over so many texts; nothing is drawn.")] = None,
    stop: Annotated[list[str] | None, typer.Option(metavar="S", help="End where this text appears; may be given again.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="S", help="Of the draws.")] = None,
    chat: options.Chat = False,
    run: options.RunFolder = None,
    no_verify: options.NoVerify = False,
    device: options.Device = None,
    threads: options.Threads = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Continue text.

    --prompt gives the text with its continuation (with --json a JSON line); --input and - give a JSON line a prompt, in order, each batch
    as it comes. An encoder-decoder gives its own text alone. Settings that are not given are those of the run that made the checkpoint,
    else those of its generation_config.json. --run keeps the energy, in emissions.csv, in a run folder.

    A masked language model gives each prompt with its [MASK]s filled by the likeliest tokens; nothing is drawn, and JSON lines tell of
    the other candidates.

    With --chat each prompt is answered, as the checkpoint's own chat template has it; a JSON line may hold {"messages": [{"role": "user",
    "content": "Hello"}]}. On a terminal --chat alone is a conversation: Ctrl-C ends an answer, Ctrl-D the conversation.
    """
    from tfkit.cli.session import command_session
    from tfkit.engine.inputs import inputs_of
    from tfkit.engine.settings import quoted, read_settings, split_arguments

    words, overrides = split_arguments(arguments or ())
    numbers = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "num_beams": num_beams,
        "seed": seed,
    }
    overrides += [f"generation.{name}={value}" for name, value in numbers.items() if value is not None]
    if stop:
        overrides.append(f"generation.stop=[{', '.join(map(quoted, stop))}]")
    with ExitStack() as stack:
        batches = read_prompts(prompt, input_, words, chat, _BATCH, stack)

        from tfkit.cli.answering import answer_lines
        from tfkit.cli.chat import answer_ends, converse, render
        from tfkit.cli.fill import fill_lines, fill_text, fills_masks
        from tfkit.generation.complete import complete
        from tfkit.hub import find_checkpoint
        from tfkit.tokenizer.template import open_template

        folder = find_checkpoint(checkpoint)
        settings = read_settings(None, folder, overrides, _SECTIONS)
        if run is not None:
            inputs_of([Path(input_)] if input_ else [], [], [folder, checkpoint]).refuse_folder(run, "--run")
        work = stack.enter_context(command_session("generate", settings.carbon, run, threads))
        with work.stop.at_once():
            loaded = _load(folder, device, threads)
            assert loaded.codec is not None
            fills = fills_masks(loaded, chat, overrides)
            decided = _decide(loaded, settings, fills)
            template = stack.enter_context(open_template(loaded.codec, loaded.folder)) if chat and batches is not None else None
        continue_texts = partial(
            complete,
            loaded.model,
            loaded.codec,
            settings=decided.settings,
            constraints=decided.constraints,
            eos_ids=answer_ends(loaded) if chat else loaded.eos_ids,
            start_id=loaded.start_id,
            should_stop=work.should_stop,
            rendered=chat,
        )

        def texts_of(prompts: Sequence[Prompt]) -> list[str]:
            if template is None:
                return [given.text for given in prompts]
            with work.stop.at_once():
                return [render(template, given) for given in prompts]

        def continue_lines(prompts: Sequence[Prompt], first: int) -> list[dict[str, Any] | None]:
            completions = continue_texts(texts_of(prompts), first_row=first)
            return [None if completion.finish == "interrupted" else line_of(completion) for completion in completions]

        count = 1
        if batches is None:
            count, tokens = 0, converse(continue_texts, loaded, work, json_)
        elif prompt is not None and not json_ and fills:
            tokens = fill_text(loaded, prompt)
        elif prompt is not None and not json_:
            [text] = texts_of(next(batches))
            continues = not chat and loaded.model.encoder is None
            tokens = _write_text(continue_texts, prompt if continues else "", text, work)
        elif fills:
            count, tokens = answer_lines(batches, partial(fill_lines, loaded), work, "filled")
        else:
            count, tokens = answer_lines(batches, continue_lines, work, "continued")
        reading = work.own(work.meter.fresh_reading())
        work.finish({"prompts": count, "tokens": tokens})
        if reading.status == "ok":
            energy, mass = format_energy(reading.energy_wh), format_mass(reading.emissions_g)
            console.say(f"{tokens:,} tokens, {energy}, {mass} CO2e ({reading.place})")


def _load(folder: Path, device: str | None, threads: int | None) -> "Loaded":
    import torch

    from tfkit.adapters import load
    from tfkit.training.device import pick_device

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load(folder, device=pick_device(device))
    if loaded.codec is None:
        raise ModelError(f"{folder}: no tokenizer.json here, and text cannot be read without; put the model's own tokenizer beside it")
    return loaded


def _decide(loaded: "Loaded", settings: "Settings", fills: bool) -> "CheckpointSettings":
    """What the checkpoint says of writing, under what the run that made it and the command line say; each reported once."""
    from tfkit.generation.config_file import checkpoint_settings

    decided = checkpoint_settings(
        loaded.generation,
        settings.generation,
        None if settings.recipe is not None else settings.generation.model_fields_set,
        encodes=loaded.model.encoder is not None,
        vocab_size=loaded.config.vocab_size,
        folder=loaded.folder,
    )
    if decided.taken and not fills:
        taken = ", ".join(f"{name}={json.dumps(value)}" for name, value in decided.taken.items())
        console.say(f"settings of the checkpoint's generation_config.json: {taken}; options and generation.key=value override them")
    if decided.unsupported and not fills:
        console.warn(f"generation_config.json: not supported and ignored: {', '.join(decided.unsupported)}")
    return decided


def _write_text(continue_texts: "ContinueTexts", shown: str, text: str, work: "Session") -> int:
    """What is shown of the prompt, and its continuation; on a terminal as it is made. Gives the tokens made."""
    live = sys.stdout is not None and sys.stdout.isatty()
    if live:
        console.piece(shown)

    def on_text(_row: int, piece: str) -> None:
        if live:
            console.piece(piece)

    [completion] = continue_texts([text], on_text=on_text)
    if live:
        console.result("")
    elif completion.finish != "interrupted":
        console.result(shown + completion.text)
    work.stop.raise_if_requested("the continuation is not whole")
    return completion.tokens
