"""The training by several ranks (processes). Rank 0 decides what is trained, writes the run folder, and reports. The other ranks prepare
the same rows and model, take every step, and between the steps wait for rank 0 or take part in its evaluations and saves.

Rank 0 announces its recipe, the checkpoint to continue from, the micro-batch size and the code that may be run; the other ranks use these
instead of what their own commands say. This module has both sides of the exchange, except for the work on sharded weights (model_work.py).
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from tfkit.alignment.user_code import CodePermission
from tfkit.carbon import FINISH, Meter
from tfkit.engine.assembly.components import assemble, first_model
from tfkit.engine.assembly.rank_inputs import inputs_on_rank, require_code_of_first, require_same_inputs
from tfkit.engine.assembly.training_data import prepare_data
from tfkit.engine.assembly.weight_sharding import require_same
from tfkit.engine.listener import Listener, StopRequest
from tfkit.engine.request.rank_checks import rank_device
from tfkit.engine.request.training_request import RequestRecord
from tfkit.engine.training_run.loop_hooks import LoopHooks
from tfkit.engine.training_run.micro_batches import MicroBatches
from tfkit.engine.training_run.model_work import ModelWork
from tfkit.engine.training_run.run import Run
from tfkit.errors import PeerLostError, Stopped, UnhealthyError
from tfkit.parallel.collectives import ProcessGroup
from tfkit.parallel.common_work import CommonWork
from tfkit.parallel.ranks import Ranks
from tfkit.parallel.workers import write_into
from tfkit.recipe.dump import recipe_document
from tfkit.recipe.reading.read import read_document
from tfkit.training.device import compile_model, pick_device, prepare_steps, use_device
from tfkit.training.health import StepReport, UnhealthyStepError
from tfkit.training.loop import Progress, train
from tfkit.training.replay import weights_sha256

Result = TypeVar("Result")


class FollowingHooks:
    """The hooks of the training loop on any rank but rank 0: they write no files, and show only warnings."""

    def __init__(self, listener: Listener, micro_batches: MicroBatches, meter: Meter):
        self._listener, self._meter = listener, meter
        self.nondeterministic, self.out_of_memory = listener.warn, micro_batches.halve

    def skipped(self, error: UnhealthyStepError) -> None:
        """Warn that the step is skipped."""
        self._listener.warn(f"{error.summary}; it is skipped")

    def unhealthy(self, error: UnhealthyStepError) -> str:
        """Return a sentence that says where the step is recorded: on rank 0."""
        return "Rank 0 has recorded the step"

    def save(self, progress: Progress) -> None:
        """Write no checkpoint; only begin a new phase in the energy measurement of this machine, for the steps that follow."""
        self._meter.phase("train", progress.step)

    evaluate = save

    def stepped(self, *_: object) -> None:
        """Do nothing: rank 0 shows and records the step."""

    log = stepped


class RankHooks:
    """The hooks of the training loop on one of several ranks. They call `hooks`: LoopHooks on rank 0, else FollowingHooks. While rank 0
    saves, evaluates or records an unhealthy step, the other ranks wait for the outcome, and take part in the work that rank 0 announces.

    `start`: the message with which rank 0 announces the steps.
    """

    def __init__(self, hooks: LoopHooks | FollowingHooks, work: ModelWork, stop: StopRequest, start: dict[str, Any]):
        self._hooks, self._group, self._work, self._stop = hooks, work.group, work, stop
        self.agreed_signal = 0  # the signal by which all ranks stop after a step; 0: they go on
        self._evaluated, self._ends_early = bool(start["evaluated"]), bool(start["ends_early"])
        self.skipped, self.nondeterministic, self.log = hooks.skipped, hooks.nondeterministic, hooks.log
        self.out_of_memory = hooks.out_of_memory

    def should_stop(self) -> bool:
        """Whether the ranks have agreed to stop."""
        return bool(self.agreed_signal)

    def evaluated(self, step: int) -> bool:
        """Whether rank 0 has evaluated the step that the run continues from."""
        return self._evaluated

    def should_stop_early(self) -> bool:
        """Whether rank 0's evaluations end the run early."""
        return self._ends_early

    def stepped(self, progress: Progress, report: StepReport, seconds: float) -> None:
        """Show and count the step on rank 0. If a rank was asked to stop, or rank 0's budget is used up, all ranks stop after this step."""
        self._hooks.stepped(progress, report, seconds)
        signal = getattr(self._stop, "requested", None) or 2 * self._stop.should_stop()  # 2, SIGINT, for a stop without a signal
        self.agreed_signal = self._group.agree_after_step(signal, seconds)

    def unhealthy(self, error: UnhealthyStepError) -> str:
        """Record the unhealthy step on rank 0, so that it can be replayed; return a sentence that says where it is recorded."""
        return self._by_first(lambda: self._hooks.unhealthy(error))

    def save(self, progress: Progress) -> None:
        """Save a checkpoint on rank 0, while the other ranks wait and take part."""
        self._by_first(lambda: self._hooks.save(progress))

    def evaluate(self, progress: Progress) -> None:
        """Evaluate on rank 0, while the other ranks wait and take part. Raises Stopped."""
        self._by_first(lambda: self._hooks.evaluate(progress))

    def _by_first(self, work: Callable[[], Result]) -> Result:
        """Do the work on rank 0, which announces the outcome; any other rank calls its own `work` when the outcome arrives.

        A Stopped or UnhealthyError of rank 0 is raised on all ranks; any other error of rank 0 becomes a PeerLostError on the others.
        """
        if isinstance(self._hooks, FollowingHooks):
            outcome = self._work.serve()
            if (stopped := outcome.get("stopped")) is not None:
                raise Stopped(stopped)
            if (unhealthy := outcome.get("unhealthy")) is not None:
                raise UnhealthyError(unhealthy)
            if (error := outcome.get("error")) is not None:
                raise PeerLostError(f"rank 0 ended the run: {error}")
            self._ends_early = bool(outcome["ends_early"])
            return work()
        try:
            result = work()
        except Stopped as stopped:
            self._group.announce({"stopped": str(stopped)})
            raise
        except UnhealthyError as unhealthy:  # raised by a save that has found a weight that is not finite
            self._group.announce({"unhealthy": str(unhealthy)})
            raise
        except BaseException as error:
            self._group.announce({"error": f"{type(error).__name__}: {error}"})
            raise
        self._ends_early = self._hooks.should_stop_early()
        self._group.announce({"ends_early": self._ends_early})
        return result


def announce_run(run: Run, checkpoint: Path | None, micro_batch_size: int) -> None:
    """Announce the run to the other ranks: its folder, recipe, checkpoint to continue from, micro-batch size, device and the hashes of
    the code that may be run. Wait until they have prepared the same data. Raises DataError or ModelError on all ranks if inputs differ.
    """
    assert isinstance(run.peers, ProcessGroup)
    where = {"folder": str(run.folder.path), "checkpoint": str(checkpoint) if checkpoint else None}
    facts = {"micro_batch_size": micro_batch_size, "device": run.device.type, "code": run.data.code_hashes}
    run.peers.announce({**where, "recipe": recipe_document(run.recipe, None), **facts})
    require_same_inputs([*inputs_on_rank(run.recipe, run.data, checkpoint)], CommonWork(run.peers).exchange)


def announce_end(group: ProcessGroup) -> None:
    """Release the other ranks at the end of the command. A rank that has already ended, for example by a signal, is no error."""
    group.announce({"finished": True})
    with suppress(PeerLostError):
        group.agree(0)


@contextmanager
def steps_of_ranks(
    hooks: LoopHooks | FollowingHooks, work: ModelWork, step: int, stop: StopRequest, last: Callable[[], object] = lambda: None
) -> Iterator[RankHooks]:
    """Begin the steps after `step` on all ranks, and yield the hooks with which this rank takes them in the block.

    At the end of the block, the ranks wait for each other, call `last`, and wait again. If the block raises Stopped, the error gets the
    exit code for the signal by which all ranks stopped. Raises ModelError on all ranks if the weights before these steps differ in any bit.
    """
    group, components = work.group, work.components
    if isinstance(hooks, LoopHooks):
        start = {"micro_batch_size": components.loader.micro_batch_size, "evaluated": hooks.evaluated(step)}
        start |= {"ends_early": hooks.should_stop_early()}
        group.announce(start)
    else:
        with stop.at_once("no step was taken"):
            start = work.serve()  # takes part in work before the first step, such as an evaluation of the initial model
        components.loader.micro_batch_size = start["micro_batch_size"]
    if components.stepper.weights.sharding is None:  # otherwise they were compared when they were sharded
        require_same(group, weights_sha256(components.stepper))
    of_rank = RankHooks(hooks, work, stop, start)
    with group.to_the_end((Stopped, UnhealthyError), last):
        try:
            yield of_rank
        except Stopped as stopped:
            if of_rank.agreed_signal:
                stopped.exit_code = 128 + of_rank.agreed_signal
            raise


def follow(ranks: Ranks, threads: int, listener: Listener, stop: StopRequest, given: RequestRecord | None = None) -> None:
    """Take part, on any rank but rank 0, in all trainings of rank 0's command. A rank that tfkit started logs into the run folders.

    `given`: the request of this rank's command, if it has one; it is only compared with rank 0's. Raises Stopped when rank 0 does,
    PeerLostError if rank 0 fails or is lost, and UnhealthyError if rank 0 ends after an unhealthy step.
    """
    torch.set_num_threads(threads)
    with stop.at_once("no step was taken"):
        group = ProcessGroup.join(ranks, given=given.sha256() if given else "")
    if given and group.given_by_first not in ("", given.sha256()):
        source = given.recipe.path if given.recipe else "the command"
        listener.warn(f"rank {ranks.rank}: {source} or its key=value differ from those of rank 0, whose recipe is trained")
    unhealthy: UnhealthyError | None = None
    meter = Meter()
    try:
        while True:
            try:
                with stop.at_once("no step was taken"):
                    message = group.receive()
            except PeerLostError as lost:
                raise unhealthy or lost from None
            if message.get("finished"):
                group.agree(0)
                return group.close()  # otherwise a running thread of gloo could abort this process when it ends
            if (metered := message.get("metered")) is not None:
                meter = Meter.on_node(metered) if ranks.meters_its_node else meter
                continue
            try:
                _take_part(message, group, listener, stop, meter)
            except UnhealthyError as error:  # this training has ended, but a sweep continues with the next one
                unhealthy = error
            gc.collect()
    finally:
        meter.stop()


def _take_part(message: dict[str, Any], group: ProcessGroup, listener: Listener, stop: StopRequest, meter: Meter) -> None:
    """Take part in the training that a `message` of rank 0 describes."""
    with stop.at_once("no step was taken"):
        write_into(Path(message["folder"]))
        micro_batches = _begin(message, group, listener, stop, meter)
    components, progress = micro_batches.components, micro_batches.components.progress
    work = ModelWork(micro_batches.recipe, components, stop.should_stop)
    with steps_of_ranks(FollowingHooks(listener, micro_batches, meter), work, progress.step, stop, meter.stop) as hooks:
        meter.phase("train", progress.step)
        try:
            train(components.stepper, components.loader, components.schedule, components.plan, hooks, progress)
        finally:
            meter.phase(FINISH)


def _begin(message: dict[str, Any], group: ProcessGroup, listener: Listener, stop: StopRequest, meter: Meter) -> MicroBatches:
    """Prepare the data, and assemble the same components as rank 0. Return the `MicroBatches`, which hold the components.

    If this rank shares a cache folder with rank 0, the encoded rows are in it already.
    """
    recipe = read_document(message["recipe"], "the recipe of rank 0").recipe
    device = pick_device(rank_device(message["device"], group.ranks))
    use_device(device)
    checkpoint = Path(message["checkpoint"]) if message["checkpoint"] else None
    work = CommonWork(group)
    with work.sharing_errors():
        require_code_of_first(recipe, message["code"], group.ranks.rank)
        data = prepare_data(recipe, device, listener, stop, meter, CodePermission(frozenset(message["code"]), noted=False), group)
        inputs = [*inputs_on_rank(recipe, data, checkpoint)]
    require_same_inputs(inputs, work.exchange)
    prepare_steps(device)
    model = first_model(recipe, data, listener, group)
    components = assemble(recipe, data, model, device, message["micro_batch_size"], listener, peers=group)
    if checkpoint is not None:
        components = components.continued_from(checkpoint)
    if recipe.training.compile:
        compile_model(model, by_block=recipe.parallel.shard > 1)
    return MicroBatches(recipe, device, listener, components, restored=checkpoint is not None)
