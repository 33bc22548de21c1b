"""Adapters for the programs that metrics are sent to: TensorBoard, wandb, mlflow, trackio and aim. Imported only if one is used.

For a run of tfkit, each program has one run. It is found again if tfkit's run is resumed or sent again, so that the program keeps each
point once. TensorBoard's files are in the run folder; for any other program, the settings of its library say where the run is stored.
"""

import contextvars
import json
import os
import struct
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from tfkit.carbon import Footprint
from tfkit.errors import MachineError, how_to_install
from tfkit.network import is_offline
from tfkit.recipe.schema.output_sections import TensorBoardSection, TrackerSection


@dataclass(frozen=True)
class TrackedRun:
    """The facts about a run that its trackers need.

    `recipe`: complete, as nested dicts. `totals`: returns the run's energy and emissions. `first_step`: TensorBoard's points of an earlier
    attempt from this step on are replaced; None: none are. `close_seconds`: how long wandb may upload points at the end; 0: no limit.
    """

    folder: Path
    run_id: str
    recipe: Mapping[str, Any]
    totals: Callable[[], Footprint]
    first_step: int | None = None
    close_seconds: float = 0.0

    @property
    def name(self) -> str:
        """The name of the folder; for a stage or trial, prefixed with the name of the folder that holds it."""
        above = self.folder.parent
        return f"{above.name}-{self.folder.name}" if (above / "run.json").is_file() else self.folder.name


class Program(Protocol):
    """The run in a program such as wandb. `place`: where the user finds it, for messages."""

    place: str

    def steps(self, name: str) -> Collection[int]:
        """Return the steps for which the program has a value of the metric `name` that it would keep twice, or refuse, if sent again."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Store the values of one step."""

    def close(self, totals: Mapping[str, float]) -> None:
        """Finish the run, with the totals of energy and emissions."""


class NewPoints:
    """A tracker that passes on, and counts, the points (each one value of one step) of steps that `Program.steps` does not name."""

    def __init__(self, program: Program, totals: Callable[[], Footprint]):
        self.place, self.sent = program.place, 0
        self._program, self._totals = program, totals
        self._known: dict[str, Collection[int]] = {}

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Send the values of a step, without those that the program would keep twice or refuse."""
        for name in values.keys() - self._known:
            self._known[name] = self._program.steps(name)
        if new := {name: value for name, value in values.items() if step not in self._known[name]}:
            self._program.add(step, new)
            self.sent += len(new)

    def close(self) -> None:
        """Send the totals of energy and emissions, if known, and finish."""
        used = self._totals()
        totals = {"totals/energy_kwh": used.energy_kwh, "totals/emissions_g": used.emissions_g}
        self._program.close({name: value for name, value in totals.items() if value is not None})


def tracker_of(section: TrackerSection, run: TrackedRun) -> Callable[[], NewPoints]:
    """Return a function that opens `run` in a tracker: a new run, or the existing one. Raises MachineError if a library is missing."""
    if isinstance(section, TensorBoardSection):
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError:
            raise MachineError(f"TensorBoard {how_to_install('tensorboard')}") from None
        return lambda: NewPoints(_EventFiles(run), run.totals)
    if find_spec(section.kind) is None:  # looked for, but not imported: that may take seconds, or fail
        raise MachineError(f"{section.kind} {how_to_install(section.kind)}")
    programs: dict[str, Callable[[TrackedRun, str], Program]] = {"wandb": _Wandb, "mlflow": _Mlflow, "trackio": _Trackio, "aim": _Aim}
    return lambda: NewPoints(programs[section.kind](run, section.project), run.totals)


class _EventFiles:
    """TensorBoard's files in the run folder, with a curve for each metric. Each step is flushed, so that a kill loses no points."""

    def __init__(self, run: TrackedRun):
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard"
        self.place = str(folder)
        self._steps = _steps_in_event_files(folder) if run.first_step is None else {}
        purged = None
        if run.first_step is not None and folder.exists():
            purged = run.first_step if run.first_step > 1 else 0  # 0: a new start also scores the initial model again, as step 0
        self._writer: Any = SummaryWriter(str(folder), purge_step=purged)

    def steps(self, name: str) -> Collection[int]:
        return self._steps.get(name, ())

    def add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, totals: Mapping[str, float]) -> None:
        self._writer.close()  # `totals` are left out: the last points of energy and emissions are about the same


def _steps_in_event_files(folder: Path) -> dict[str, set[int]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not folder.exists():
        return {}
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {name: {event.step for event in found.Scalars(name)} for name in found.Tags()["scalars"]}


class _Wandb:
    """A run of Weights & Biases with the id of tfkit's run. wandb takes only ascending steps, so all up to its last one count as sent."""

    def __init__(self, run: TrackedRun, project: str):
        import wandb

        settings = wandb.Settings(console="off", silent=True, finish_timeout=run.close_seconds)
        self._run: Any = wandb.init(
            project=project,
            id=run.run_id,
            name=run.name,
            config=dict(run.recipe),
            allow_val_change=True,
            resume="allow",
            reinit="create_new",
            mode="offline" if is_offline() else None,
            settings=settings,
        )
        folder = Path(self._run.dir).parent
        self.place = str(folder) if self._run.offline else self._run.url
        others = folder.parent.glob(f"offline-run-*-{run.run_id}/*.wandb") if self._run.offline else ()
        sent = (record.history.step.num for path in others for record in offline_records(path) if record.HasField("history"))
        self._known = range(max([self._run.starting_step, *(step + 1 for step in sent)]))

    def steps(self, name: str) -> Collection[int]:
        return self._known

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, totals: Mapping[str, float]) -> None:
        self._run.summary.update(totals)
        self._run.finish()


def offline_records(path: Path) -> Iterator[Any]:
    """Yield the records of a file of wandb's offline mode: a header of 7 bytes, then LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, block, record = path.read_bytes(), 7, 1 << 15, b""
    while at + 7 <= len(data):
        if (left := block - at % block) < 7:
            at += left  # the rest of the block is padding, too short for the header of a part
            continue
        length, part = struct.unpack_from("<HB", data, at + 4)  # length and kind of a part, after its checksum
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4) and at <= len(data):  # a whole record, or the last part of one
            yield Record.FromString(record)
            record = b""


class _Mlflow:
    """A run of MLflow, found again by its tag. MLflow keeps a point twice if it is sent twice, so it is first queried for its points."""

    def __init__(self, run: TrackedRun, project: str):
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for the result
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client, self._metric = MlflowClient(), Metric
        found = self._client.get_experiment_by_name(project)
        experiment = found.experiment_id if found else self._client.create_experiment(project)
        runs = self._client.search_runs([experiment], f"tags.`tfkit.run_id` = '{run.run_id}'", max_results=1)
        self._is_new = not runs
        new = None if runs else self._client.create_run(experiment, run_name=run.name, tags={"tfkit.run_id": run.run_id})
        self._id = (new or runs[0]).info.run_id
        self.place = f"{self._client.tracking_uri}, experiment {project}, run {self._id}"
        if self._is_new:  # only then, since MLflow does not allow a parameter to change
            fields = {
                f"{part}.{name}": value
                for part, section in run.recipe.items()
                if isinstance(section, dict)
                for name, value in section.items()
            }
            params = [Param(name, value if isinstance(value, str) else json.dumps(value)) for name, value in fields.items()]
            for first in range(0, len(params), 100):  # MLflow's limit of parameters per request
                self._client.log_batch(self._id, params=params[first : first + 100])
        else:
            self._client.update_run(self._id, "RUNNING")

    def steps(self, name: str) -> Collection[int]:
        return () if self._is_new else {point.step for point in self._client.get_metric_history(self._id, name)}

    def add(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(self._id, [self._metric(name, value, now, step) for name, value in values.items()])

    def close(self, totals: Mapping[str, float]) -> None:
        for name, value in totals.items():
            self._client.set_tag(self._id, name, value)
        self._client.set_terminated(self._id)


class _Trackio:
    """A run of Trackio, found again by its name. Trackio keeps a point twice if sent twice, so all steps up to its last count as sent."""

    def __init__(self, run: TrackedRun, project: str):
        import trackio

        for module in (trackio, trackio.run, trackio.utils):
            module.print = lambda *_, **__: None  # stdout is for the result, and trackio has no option to be silent
        name = f"{run.name}-{run.run_id[:8]}"
        self._run: Any = contextvars.Context().run(  # its own context, so that a run of trackio that the caller has opened stays open
            trackio.init,
            project=project,
            name=name,
            config=dict(run.recipe),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self.place = f"{self._run.url or trackio.TRACKIO_DIR}, project {project}, run {name}"
        self._known, self._last = range(self._run._next_step), 0

    def steps(self, name: str) -> Collection[int]:
        return self._known

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)
        self._last = step

    def close(self, totals: Mapping[str, float]) -> None:
        if totals and self._last:  # Trackio has no summary, so the totals are points; if no other point was new, it has the totals already
            self._run.log(dict(totals), step=self._last)
        self._run.finish()


class _Aim:
    """A run of Aim, found again by its description. Aim replaces a point that is sent again, so no step counts as sent."""

    def __init__(self, run: TrackedRun, project: str):
        import aim

        path, mark = aim.Repo.default_repo_path(), f"tfkit run {run.run_id}"
        repo = aim.Repo.from_path(path, init=not aim.Repo.exists(path))
        read = (aim.Run(one, repo=repo, read_only=True) for one in repo.list_all_runs())
        known = next((one.hash for one in read if one.description == mark and one.experiment == project), None)
        self._run: Any = aim.Run(known, repo=repo, experiment=project, system_tracking_interval=None, capture_terminal_logs=False)
        self._run.name, self._run.description, self._run["recipe"] = run.name, mark, dict(run.recipe)
        self.place = f"{repo.path}, experiment {project}, run {self._run.hash}"

    def steps(self, name: str) -> Collection[int]:
        return ()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._run.track(float(value), name=name, step=step)  # Aim requires one type for all values of a name

    def close(self, totals: Mapping[str, float]) -> None:
        self._run["totals"] = {name.removeprefix("totals/"): value for name, value in totals.items()}
        self._run.close()
