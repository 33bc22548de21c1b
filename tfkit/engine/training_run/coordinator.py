"""Rank 0 of a training on several ranks: it alone reads the command, writes the run folder, evaluates and reports. The others follow it
(worker.py).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from tfkit.engine.assembly.components import Components
from tfkit.engine.assembly.rank_inputs import inputs_on_rank, require_same_inputs
from tfkit.engine.assembly.training_data import TrainingData
from tfkit.engine.assembly.weight_sharding import require_same
from tfkit.engine.listener import StopRequest
from tfkit.engine.training_run.loop_hooks import LoopHooks
from tfkit.errors import Stopped, UnhealthyError
from tfkit.parallel.agreement import Peers
from tfkit.parallel.collectives import ProcessGroup
from tfkit.parallel.common_work import CommonWork
from tfkit.recipe.dump import recipe_document
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.health import StepReport, UnhealthyStepError
from tfkit.training.loop import Progress
from tfkit.training.replay import weights_sha256

Result = TypeVar("Result")

BUDGET_CODE = 100  # beyond the numbers of signals: rank 0 stops the run since a budget is used up


class AgreedStop:
    """The stop that all ranks agree on, after the step in which one of them is asked to stop."""

    def __init__(self, group: ProcessGroup, stop: StopRequest):
        self._group, self._stop, self.code = group, stop, 0

    def stepped(self, seconds: float, budget_reached: bool = False) -> None:
        """Agree, after a step that took `seconds`, whether to stop."""
        signal = getattr(self._stop, "requested", None)
        own = signal or (BUDGET_CODE if budget_reached else 2 if self._stop.should_stop() else 0)
        self.code = self._group.agree_after_step(own, seconds)

    def should_stop(self) -> bool:
        """Whether the ranks have agreed to stop."""
        return bool(self.code)

    @contextmanager
    def exit_code(self) -> Iterator[None]:
        """Give a Stopped of the block the exit code of the signal that any rank has received."""
        try:
            yield
        except Stopped as stopped:
            if self.code and self.code != BUDGET_CODE:
                stopped.exit_code = 128 + self.code
            raise


class CoordinatorHooks:
    """The hooks of rank 0: those of a single process, followed by an announcement of the outcome where the other ranks wait for it."""

    def __init__(self, hooks: LoopHooks, group: ProcessGroup, stop: StopRequest):
        self._hooks, self._group, self.stop = hooks, group, AgreedStop(group, stop)
        self.skipped, self.nondeterministic, self.log, self.out_of_memory = (
            hooks.skipped,
            hooks.nondeterministic,
            hooks.log,
            hooks.out_of_memory,
        )
        self.evaluated, self.should_stop_early, self.should_stop = hooks.evaluated, hooks.should_stop_early, self.stop.should_stop

    def stepped(self, progress: Progress, report: StepReport, seconds: float) -> None:
        """Show the step, and agree with the other ranks whether it is the last."""
        self._hooks.stepped(progress, report, seconds)
        self.stop.stepped(seconds, (budget := self._hooks.run.budget) is not None and bool(budget.reached))

    def unhealthy(self, error: UnhealthyStepError) -> str:
        """Write the replay file of the step while the others wait."""
        return self._announce_outcome(lambda: self._hooks.unhealthy(error))

    def save(self, progress: Progress) -> None:
        """Save while the others wait."""
        self._announce_outcome(lambda: self._hooks.save(progress))

    def evaluate(self, progress: Progress) -> None:
        """Evaluate while the others wait. Raises Stopped."""
        self._announce_outcome(lambda: self._hooks.evaluate(progress))

    def _announce_outcome(self, work: Callable[[], Result]) -> Result:
        try:
            result = work()
        except Stopped as stopped:
            self._group.announce({"stopped": str(stopped)})
            raise
        except BaseException as error:
            self._group.announce({"error": f"{type(error).__name__}: {error}"})
            raise
        self._group.announce({"ends_early": self.should_stop_early()})
        return result


class Coordinator:
    """Rank 0's announcements to the others."""

    def __init__(self, peers: Peers):
        assert isinstance(peers, ProcessGroup)
        self._group = peers

    def begin(
        self, recipe: Recipe, data: TrainingData, folder: Path, checkpoint: Path | None, micro_batch_size: int, device: torch.device
    ) -> None:
        """Announce the run: its resolved recipe, the checkpoint that it continues from, the device, and the code that is run.
        Then wait until the other ranks have prepared the same data. Raises DataError or ModelError on all ranks if an input differs.
        """
        document = recipe_document(recipe, None)
        where = {"folder": str(folder), "checkpoint": str(checkpoint) if checkpoint else None}
        facts = {"micro_batch_size": micro_batch_size, "device": device.type, "code": data.code_hashes}
        self._group.announce({**where, "recipe": document, **facts})
        require_same_inputs([*inputs_on_rank(recipe, data, checkpoint)], CommonWork(self._group).exchange)

    @contextmanager
    def steps(self, components: Components, hooks: LoopHooks, progress: Progress, stop: StopRequest) -> Iterator[CoordinatorHooks]:
        """Announce that the steps begin, and yield the hooks with which rank 0 takes them in the block. At its end all ranks have received
        the last announcement, and a stop has the exit code of its signal.
        """
        state = {"evaluated": hooks.evaluated(progress.step), "ends_early": hooks.should_stop_early()}
        self._group.announce({"micro_batch_size": components.loader.micro_batch_size, **state})
        require_same_weights(self._group, components)
        leading = CoordinatorHooks(hooks, self._group, stop)
        with self._group.to_the_end((Stopped, UnhealthyError)), leading.stop.exit_code():
            yield leading


def require_same_weights(group: ProcessGroup, components: Components) -> None:
    """Raise ModelError on all ranks if their initial weights differ in a bit; sharded weights were compared when they were sharded."""
    if components.weights.sharding is None:
        require_same(group, weights_sha256(components.stepper))
