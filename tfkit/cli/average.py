"""The command tfkit average, which writes the mean of a run's last checkpoints as a model folder."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.cli.results import show

EXAMPLES = ("tfkit average runs/demo --last 2 --out models/demo-mean",)


def average(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The model folder to write; it must not exist yet.")],
    last: Annotated[int, typer.Option(min=2, metavar="N", help="Average the N newest complete checkpoints.")] = 5,
    json: options.Json = False,
) -> None:
    """Average the weights of a run's last checkpoints, as in the 2017 Transformer paper. The result can be used like any checkpoint."""
    from tfkit.carbon import Footprint
    from tfkit.cli.session import command_session
    from tfkit.engine.tools.averaging import average_checkpoints, carbon_of, choose_checkpoints

    chosen = choose_checkpoints(run, out, last)
    with command_session("average", carbon_of(run)) as session, session.stop.at_once("nothing was written"):
        began = time.monotonic()
        done = average_checkpoints(chosen, out, console)
        seconds = time.monotonic() - began
        reading = session.own(session.meter.stop())
    document: dict[str, Any] = {"run": str(run), "model": str(out), "checkpoints": done.checkpoints, "step": done.step}
    text = f"{out}: the mean of {', '.join(done.checkpoints)}"
    if (shift := done.reward_shift) is not None:
        document["reward_shift"] = shift
        text += f"\nreward_shift is {shift:.4g}, the mean of the checkpoints' shifts, so that the scores of good completions "
        text += "average about 0"
    document |= {"seconds": round(seconds, 3), **vars(Footprint.from_reading(reading))}
    show(document, lambda _: text, as_json=json)
