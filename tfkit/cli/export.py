"""The command tfkit export, which writes a language model as a GGUF file, for llama.cpp and programs that use it."""

import time
from pathlib import Path
from typing import Annotated

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.cli.results import show
from tfkit.engine.tools.gguf_export import FAMILIES, export_gguf
from tfkit.units import format_bytes

EXAMPLES = ("tfkit export runs/demo --gguf demo.gguf", "tfkit export runs/demo --gguf demo-8.gguf --type q8_0")


def export(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help=f"{options.ANY_MODEL} Its family: {', '.join(FAMILIES)}.")],
    gguf: Annotated[Path, typer.Option(metavar="F", help="The file to write; it must not exist yet.")],
    kind: Annotated[
        str, typer.Option("--type", metavar="TYPE", help="The type of matrices: f16, or q8_0, which is half as large.")
    ] = "f16",
    no_verify: options.NoVerify = False,
    json: options.Json = False,
) -> None:
    """Write a decoder as a GGUF file, with its tokenizer and chat template.

    The file is read again, and its predictions are compared with the model's. Models that llama.cpp would compute differently are refused.
    """
    began = time.monotonic()
    done = export_gguf(checkpoint, gguf, kind, console)
    document = {"checkpoint": checkpoint, "gguf": str(gguf), "type": kind, **done, "seconds": round(time.monotonic() - began, 3)}
    size, architecture = format_bytes(done["bytes"]), done["architecture"]
    text = f"{gguf}: {size}, {kind}, {architecture} of llama.cpp; mean KL divergence {done['kl']:.2g} nats"
    show(document, lambda _: text, as_json=json)
