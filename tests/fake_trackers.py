"""Fakes of wandb, mlflow, trackio and aim: what tfkit calls of them, with their rules for points that come twice."""

import builtins
import importlib.machinery
import os
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tiny_files import read_rows

KINDS = ("wandb", "mlflow", "trackio", "aim")
Point = tuple[str, int, float]


class Server:
    """The store of all four: for each run of a project its points, settings and totals. `refuses`: opening a run fails."""

    def __init__(self) -> None:
        self.points: defaultdict[tuple[str, str], list[Point]] = defaultdict(list)  # by project and the run's own key
        self.facts: defaultdict[tuple[str, str], dict[str, Any]] = defaultdict(dict)
        self.refuses = False

    def open(self, project: str, run: str) -> tuple[str, str]:
        if self.refuses:
            raise RuntimeError("no key: log in first\nor do not")
        self.points[project, run] += []
        return project, run

    def last(self, key: tuple[str, str]) -> int:
        return max((step for _, step, _ in self.points[key]), default=-1)

    def add(self, key: tuple[str, str], step: int, values: dict[str, float]) -> None:
        self.points[key] += [(name, step, value) for name, value in values.items()]

    def single(self) -> tuple[list[Point], dict[str, Any]]:
        """Return the points and facts of the only run."""
        (key,) = self.points
        return self.points[key], self.facts[key]


def install(kind: str, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Put a fake where `import` finds it, and return its store."""
    server = Server()
    for name, module in {"wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio, "aim": _aim}[kind](server).items():
        made = ModuleType(name)
        made.__dict__.update(module, __spec__=importlib.machinery.ModuleSpec(name, None), __path__=[])
        monkeypatch.setitem(sys.modules, name, made)
        above, _, own = name.rpartition(".")
        if above:
            setattr(sys.modules[above], own, made)
    return server


def _wandb(server: Server) -> dict[str, dict[str, Any]]:
    class Run:
        """It takes the steps in order, and ignores earlier ones."""

        def __init__(self, project: str, id: str, name: str, config: dict[str, Any], **options: Any):
            assert options["resume"] == "allow"
            self.key = server.open(project, id)
            self.offline, self.url, self.dir = False, f"https://wandb.test/{project}/{id}", "wandb/run/files"
            self.starting_step = self.step = server.last(self.key) + 1
            server.facts[self.key] |= {"name": name, "lr": config["optimizer"]["lr"]}
            self.summary: dict[str, float] = {}

        def log(self, values: dict[str, float], step: int) -> None:
            if step >= self.step:
                self.step = step
                server.add(self.key, step, values)

        def finish(self) -> None:
            server.facts[self.key] |= self.summary

    return {"wandb": {"init": Run, "Settings": SimpleNamespace}}


def _mlflow(server: Server) -> dict[str, dict[str, Any]]:
    class MlflowClient:
        """It keeps every point, refuses another value of a parameter, and prints, as a client of a server does."""

        tracking_uri = "memory"

        def get_experiment_by_name(self, name: str) -> Any:
            return SimpleNamespace(experiment_id=name) if any(project == name for project, _ in server.points) else None

        def create_experiment(self, name: str) -> str:
            return name

        def search_runs(self, experiments: list[str], query: str, max_results: int) -> list[Any]:
            (project,), run_id = experiments, query.split("'")[1]
            return [self._info(run) for key, run in server.points if (key, run) == (project, f"run of {run_id}")]

        def create_run(self, experiment: str, run_name: str, tags: dict[str, str]) -> Any:
            _, run = server.open(experiment, f"run of {tags['tfkit.run_id']}")
            server.facts[experiment, run]["name"] = run_name
            return self._info(run)

        def _info(self, run: str) -> Any:
            return SimpleNamespace(info=SimpleNamespace(run_id=run))

        def _key(self, run: str) -> tuple[str, str]:
            (key,) = (key for key in server.points if key[1] == run)
            return key

        def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
            assert len(params) <= 100
            for metric in metrics:
                server.add(self._key(run), metric.step, {metric.key: metric.value})
            for param in params:
                if param.key == "optimizer.lr":
                    assert server.facts[self._key(run)].setdefault("lr", float(param.value)) == float(param.value)

        def get_metric_history(self, run: str, key: str) -> list[Any]:
            return [SimpleNamespace(step=step) for name, step, _ in server.points[self._key(run)] if name == key]

        def update_run(self, run: str, status: str) -> None:
            assert status == "RUNNING"

        def set_tag(self, run: str, name: str, value: float) -> None:
            server.facts[self._key(run)][name] = value

        def set_terminated(self, run: str) -> None:
            if os.environ.get("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT") != "true":
                print(f"* View {self._key(run)}")

    def metric(key: str, value: float, timestamp: int, step: int) -> Any:
        return SimpleNamespace(key=key, value=value, step=step)

    entities = {"Metric": metric, "Param": lambda key, value: SimpleNamespace(key=key, value=value)}
    return {"mlflow": {"MlflowClient": MlflowClient}, "mlflow.entities": entities}


def _trackio(server: Server) -> dict[str, dict[str, Any]]:
    class Run:
        """It keeps every point, and prints."""

        url = None

        def __init__(self, project: str, name: str, config: dict[str, Any], resume: str, **options: Any):
            assert resume == "allow"
            self.key = server.open(project, name)
            self._next_step = server.last(self.key) + 1
            server.facts[self.key] |= {"name": name[:-9], "lr": config["optimizer"]["lr"]}
            getattr(sys.modules["trackio"], "print", builtins.print)("* Created new run")

        def log(self, values: dict[str, float], step: int) -> None:
            totals = {name: value for name, value in values.items() if name.startswith("totals/")}
            server.facts[self.key] |= totals
            server.add(self.key, step, {name: value for name, value in values.items() if name not in totals})

        def finish(self) -> None:
            getattr(sys.modules["trackio.run"], "print", builtins.print)("* Run finished")

    return {"trackio": {"init": Run, "TRACKIO_DIR": Path("trackio")}, "trackio.run": {}, "trackio.utils": {}}


def _aim(server: Server) -> dict[str, dict[str, Any]]:
    class Repo:
        path = ".aim"

        @staticmethod
        def default_repo_path() -> str:
            return "."

        @staticmethod
        def exists(path: str) -> bool:
            return bool(server.points)

        @staticmethod
        def from_path(path: str, init: bool) -> "Repo":
            return Repo()

        def list_all_runs(self) -> list[str]:
            return [run for _, run in server.points]

    class Run:
        """A second point at a step replaces the first."""

        def __init__(self, run_hash: str | None, repo: Repo, experiment: str | None = None, read_only: bool = False, **options: Any):
            if read_only:
                (self.key,) = (key for key in server.points if key[1] == run_hash)
            else:
                self.key = server.open(str(experiment), run_hash or f"hash{len(server.points)}")
            self.__dict__.update(server.facts[self.key].get("own", {}))
            self.experiment, self.hash = self.key

        def __setitem__(self, name: str, value: dict[str, Any]) -> None:
            if name == "recipe":
                server.facts[self.key] |= {"name": self.name, "lr": value["optimizer"]["lr"], "own": {"description": self.description}}
            else:
                server.facts[self.key] |= {f"totals/{total}": amount for total, amount in value.items()}

        def track(self, value: float, name: str, step: int) -> None:
            points = server.points[self.key]
            points[:] = [point for point in points if point[:2] != (name, step)]
            server.add(self.key, step, {name: value})

        def close(self) -> None:
            del self.key

    return {"aim": {"Repo": Repo, "Run": Run}}


def logged(run: Path) -> set[Point]:
    """Return the points of metrics.jsonl."""
    found: set[Point] = set()
    for record in read_rows(run / "metrics.jsonl"):
        scores = {f"evaluation/{name}": value for name, value in record.get("evaluation", {}).items()}
        values = scores or {name: value for name, value in record.items() if name != "step"}
        found |= {(name, record["step"], value) for name, value in values.items() if value is not None}
    return found
