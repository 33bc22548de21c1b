"""Send the recorded metrics of a run to a tracker, with the names that they would have if the training itself had sent them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfkit.engine.listener import Listener
from tfkit.engine.training_run.tracker_adapters import TrackedRun, tracker_of
from tfkit.errors import MachineError, Stopped, TfkitError, UsageError, argument
from tfkit.recipe import read_run_recipe
from tfkit.recipe.dump import recipe_document
from tfkit.recipe.schema.output_sections import ProjectTrackerSection, TensorBoardSection, TrackerSection
from tfkit.run.listing import read_run
from tfkit.run.metrics import read_metrics
from tfkit.run.run_json import known_of, runs_within
from tfkit.run.strict_json import is_number

TRACKERS = ("wandb", "mlflow", "trackio", "aim", "tensorboard")


@dataclass(frozen=True)
class Tracked:
    """A run that was sent to a tracker."""

    run: str  # the run folder
    to: str  # the kind of the tracker
    points: int  # number of values that were sent by this command
    known: int  # number of values that the tracker already had
    place: str  # where the tracker shows the run


def track_run(run: Path, to: str, project: str | None, listener: Listener) -> list[Tracked]:
    """Send the metrics of a run, or of each of its stages or trials, to a tracker, except values that the tracker already has.

    `project`: its name in the tracker; None: `tfkit`. Raises UsageError for an unknown tracker, an empty name, any project of TensorBoard,
    which has none, and a folder without a run or metrics; MachineError if the tracker is not installed or fails.
    """
    section = _section(to, project)
    run = run.resolve() if run.is_symlink() else run
    if (listed := read_run(run)).status in ("foreign", "damaged"):
        raise UsageError(f"{run}: there is no run here ({listed.problem}); name the folder of a run")
    runs = [folder for folder in runs_within(run) if any(_points(folder))]
    if not runs:
        raise UsageError(f"{run}: has no metrics yet; name a run that took steps")
    return [_send(folder, section, listener) for folder in runs]


def _section(to: str, project: str | None) -> TrackerSection:
    if to == "tensorboard":
        if project is not None:
            raise UsageError(f"{argument('project', project)}: has no effect, since TensorBoard has no projects; leave it out")
        return TensorBoardSection(kind=to)
    if to in ("wandb", "mlflow", "trackio", "aim"):
        if project == "":
            raise UsageError(f"{argument('project')}: is empty; give the name of a project, or leave it out for tfkit")
        return ProjectTrackerSection(kind=to, project=project or "tfkit")
    raise UsageError(f"{argument('to', to)}: there is no such tracker; {', '.join(TRACKERS)} are known")


def _points(folder: Path) -> Iterator[tuple[int, Mapping[str, float]]]:
    """Yield the step and the values of each training and evaluation record of a run, under the names that trackers get in a training."""
    before: Mapping[str, Any] = known_of(folder).before
    if before:
        yield 0, _numbers(before, "evaluation/")
    for record in read_metrics(folder / "metrics.jsonl"):
        if "evaluation" in record:
            yield record["step"], _numbers(record["evaluation"], "evaluation/")
        elif "loss" in record:
            yield record["step"], _numbers({name: value for name, value in record.items() if name != "step"}, "")


def _numbers(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    return {f"{prefix}{name}": value for name, value in values.items() if value is not None and is_number(value)}


def _send(folder: Path, section: TrackerSection, listener: Listener) -> Tracked:
    run = known_of(folder)
    recipe = recipe_document(read_run_recipe(folder).recipe, None)
    open_run = tracker_of(section, TrackedRun(folder.resolve(), run.run_id, recipe, lambda: run.totals))
    count = 0
    try:
        tracker = open_run()
        with listener.progress(f"sending to {section.kind}") as bar:
            for step, values in _points(folder):
                tracker.add(step, values)
                count += len(values)
                bar.advance()
        tracker.close()
    except (Stopped, TfkitError):
        raise
    except Exception as error:  # the libraries of trackers may raise exceptions of any type
        first = (str(error).strip() or type(error).__name__).partition("\n")[0].rstrip(".")
        raise MachineError(f"{folder}: {section.kind} refused it: {first}. Correct this, then track the run again") from error
    return Tracked(str(folder), section.kind, tracker.sent, count - tracker.sent, tracker.place)
