"""tfkit generate: continue prompts. One prompt gives text; prompts from a file or stdin give JSON lines, in order."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.errors import DataError, ModelError, UsageError

if TYPE_CHECKING:
    from tfkit.cli.session import Session
    from tfkit.generation.complete import TextCompletion
    from tfkit.hub import Loaded
    from tfkit.recipe.schema import GenerationSection

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
    stop: Annotated[list[str] | None, typer.Option(metavar="S", help="End where this text appears; may be given again.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="S", help="Of the draws.")] = None,
    run: options.RunFolder = None,
    device: options.Device = None,
    threads: options.Threads = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Continue text.

    --prompt gives the text with its continuation (with --json a JSON line); --input and - give a JSON line a prompt, in order. Settings
    that are not given are those of the run that made the checkpoint. --run keeps the energy, in emissions.csv, in a run folder.
    """
    from tfkit.cli.session import session
    from tfkit.cli.settings import quoted, read_settings, split_arguments

    words, overrides = split_arguments(arguments or ())
    numbers = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    overrides += [f"generation.{name}={value}" for name, value in numbers.items() if value is not None]
    if stop:
        overrides.append(f"generation.stop=[{', '.join(map(quoted, stop))}]")
    prompts = _prompts(prompt, input_, words)

    from tfkit.hub import find_checkpoint

    folder = find_checkpoint(checkpoint)
    settings = read_settings(None, folder, overrides, _SECTIONS)
    with session("generate", settings.carbon, run) as work:
        loaded = _load(folder, device, threads)
        if prompt is not None and not json_:
            tokens = _write_text(loaded, prompt, settings.generation, work)
        else:
            tokens = _write_lines(loaded, prompts, settings.generation, work)
        reading = work.meter.reading()
        work.finish({"prompts": len(prompts), "tokens": tokens})
        if reading.status == "ok":
            energy, mass = console.format_energy(reading.energy_wh), console.format_mass(reading.emissions_g)
            console.say(f"{tokens:,} tokens, {energy}, {mass} CO2e ({reading.place})")


def _prompts(prompt: str | None, path: str | None, words: Sequence[str]) -> list[str]:
    """All prompts, read before anything is computed, so that an error in the last one is found at once."""
    unknown = [word for word in words if word != "-"]
    if unknown:
        raise UsageError(f"generate does not know what {unknown[0]!r} is: a prompt is given as --prompt TEXT, a change as key=value")
    given = [("--prompt", prompt is not None), ("--input", path is not None), ("-", bool(words))]
    named = [name for name, is_given in given if is_given]
    if len(named) != 1:
        raise UsageError(
            "generate takes exactly one of --prompt TEXT, --input F, and - for stdin" + (f", not {' and '.join(named)}" if named else "")
        )
    if prompt is not None:
        return [_text(prompt, "--prompt")]
    place = "stdin" if path in (None, "-") else str(path)
    try:
        content = sys.stdin.buffer.read() if path in (None, "-") else Path(str(path)).read_bytes()
    except OSError as error:
        raise DataError(f"{place}: cannot be read: {error.strerror}; --input takes a file of prompts") from error
    prompts = list(_read_prompts(content, place))
    if not prompts:
        raise DataError(f'{place}: there is no prompt; give lines such as {{"prompt": "Once upon"}}, or a prompt a line')
    return prompts


def _read_prompts(content: bytes, place: str) -> Iterator[str]:
    """The prompts of lines, empty ones left out. If the first is a JSON object, all must be; else each line is a prompt as it stands."""
    lines = [(number, line) for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1) if line.strip()]
    rows = bool(lines) and isinstance(_value(lines[0][1]), dict)
    for number, line in lines:
        try:
            text = line.decode().removesuffix("\r")
        except UnicodeDecodeError as error:
            raise DataError(f"{place}:{number}:{error.start + 1}: not UTF-8; save the prompts as UTF-8") from None
        if not rows:
            yield text
            continue
        row = _value(line)
        if not isinstance(row, dict):
            raise DataError(f'{place}:{number}: not a JSON object, as the first line is; write {{"prompt": ...}} in every line')
        if not isinstance(row.get("prompt"), str):
            raise DataError(f'{place}:{number}: no text under "prompt"; here are {", ".join(map(str, row)) or "no fields"}')
        yield _text(row["prompt"], f"{place}:{number}")


def _text(prompt: str, place: str) -> str:
    """The prompt, if it is text: JSON and the command line can hold half a character."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: character {error.start + 1} of the prompt is half of one (a surrogate); write it whole") from None
    return prompt


def _value(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _load(folder: Path, device: str | None, threads: int | None) -> "Loaded":
    import torch

    from tfkit.hub import load
    from tfkit.training.device import pick_device

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load(folder, device=pick_device(device))
    if loaded.codec is None:
        raise ModelError(f"{folder}: no tokenizer.json here, and text cannot be read without; put the model's own tokenizer beside it")
    return loaded


def _write_text(loaded: "Loaded", prompt: str, settings: "GenerationSection", work: "Session") -> int:
    """The prompt and its continuation; on a terminal as it is made. Gives the tokens made."""
    from tfkit.generation.complete import complete

    assert loaded.codec is not None
    live = sys.stdout.isatty()
    if live:
        console.piece(prompt)

    def on_text(_row: int, piece: str) -> None:
        if live:
            console.piece(piece)

    [completion] = complete(
        loaded.model, loaded.codec, [prompt], settings, eos_ids=loaded.eos_ids, on_text=on_text, should_stop=work.should_stop
    )
    if live:
        console.result("")
    elif completion.finish != "interrupted":
        console.result(prompt + completion.text)
    work.signals.raise_if_requested("the continuation is not whole")
    return completion.tokens


def _write_lines(loaded: "Loaded", prompts: Sequence[str], settings: "GenerationSection", work: "Session") -> int:
    """A JSON line for each prompt, in order, as soon as its batch is done. Gives the tokens made."""
    from tfkit.generation.complete import complete

    assert loaded.codec is not None
    tokens = 0
    with console.progress("generating", len(prompts), "prompts") as bar:
        for first in range(0, len(prompts), _BATCH):
            batch = prompts[first : first + _BATCH]
            completions = complete(
                loaded.model, loaded.codec, batch, settings, eos_ids=loaded.eos_ids, should_stop=work.should_stop, first_row=first
            )
            for i, completion in enumerate(completions):
                if completion.finish == "interrupted":
                    work.signals.raise_if_requested(f"{first + i:,} of {len(prompts):,} prompts were continued")
                _write_line(batch[i], completion)
                tokens += completion.tokens
            bar.advance(len(batch))
    return tokens


def _write_line(prompt: str, completion: "TextCompletion") -> None:
    console.json({"prompt": prompt, "completion": completion.text, "tokens": completion.tokens, "finish": completion.finish})
