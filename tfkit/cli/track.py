"""The command tfkit track, which sends the metrics of a run to a tracker."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.cli.results import show

EXAMPLES = ("tfkit track runs/demo --to wandb --project demos", "tfkit track runs/demo --to tensorboard")


def track(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, also of one with stages or trials.")],
    to: Annotated[str, typer.Option(metavar="TRACKER", help="The tracker: wandb, mlflow, trackio, aim or tensorboard.")],
    project: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The project of the tracker's run, for mlflow and aim their experiment; by default tfkit."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Send the metrics, the recipe and the totals of energy and emissions of a run to a tracker, while it trains or afterwards.

    If the run was sent before, only what is new is added to the tracker's copy of it. The tracker's own settings, such as WANDB_MODE,
    MLFLOW_TRACKING_URI and TRACKIO_DIR, choose the server or folder that receives it; for TensorBoard, files are written to the run folder.
    """
    from tfkit.engine.tools.tracking import track_run

    done = track_run(run, to, project, console)
    had = [f", which had {one.known:,} of them" if one.known else "" for one in done]
    lines = (f"{one.run}: {one.points:,} points sent to {one.to}{known}: {one.place}" for one, known in zip(done, had, strict=True))
    show({"runs": [asdict(one) for one in done]}, lambda _: "\n".join(lines), as_json=json)
