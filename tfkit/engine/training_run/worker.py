"""The ranks of a training that follow rank 0: they prepare the same rows and model, take every step, and write nothing.

Rank 0 (coordinator.py), not their command line, sends them its recipe, the checkpoint that it continues from, the size of its micro-batches
and which code may be run.
Rank 0 saves, evaluates and writes all files, and the others wait for it.
"""

import gc
from pathlib import Path
from typing import Any

import torch

from tfkit.alignment.user_code import CodePermission
from tfkit.carbon import FINISH, Meter
from tfkit.engine.assembly.components import assemble, first_model
from tfkit.engine.assembly.rank_inputs import inputs_on_rank, require_code_of_first, require_same_inputs
from tfkit.engine.assembly.training_data import prepare_data
from tfkit.engine.listener import Listener, StopRequest
from tfkit.engine.request.rank_checks import rank_device
from tfkit.engine.request.training_request import RequestRecord
from tfkit.engine.training_run.coordinator import FollowingHooks, steps_of_ranks
from tfkit.engine.training_run.micro_batches import MicroBatches
from tfkit.engine.training_run.sharded_work import ShardedWork
from tfkit.errors import PeerLostError, UnhealthyError
from tfkit.parallel.collectives import ProcessGroup
from tfkit.parallel.common_work import CommonWork
from tfkit.parallel.ranks import Ranks
from tfkit.parallel.workers import write_into
from tfkit.recipe.reading.read import read_document
from tfkit.training.device import compile_model, keep_freed_memory, make_deterministic, pick_device, use_device
from tfkit.training.loop import train


def follow(ranks: Ranks, threads: int, listener: Listener, stop: StopRequest, given: RequestRecord | None = None) -> None:
    """Take part in the trainings that rank 0 leads, to their end. Their output goes into each run folder, once it is known.

    `given`: the recipe of this rank's command, if it has one; it is only compared with rank 0's.

    Raises Stopped as rank 0 does, PeerLostError if rank 0 fails or is lost, UnhealthyError if it ends after an unhealthy step.
    """
    torch.set_num_threads(threads)
    with stop.at_once("no step was taken yet"):
        group = ProcessGroup.join(ranks, given=given.sha256() if given else "")
    if given and group.given_by_first not in ("", given.sha256()):
        source = given.recipe.path if given.recipe else "the command"
        listener.warn(f"rank {ranks.rank}: {source} or its key=value differ from those of rank 0, whose recipe is trained")
    unhealthy: UnhealthyError | None = None
    meter = Meter()
    try:
        while True:
            try:
                with stop.at_once("no step was taken yet"):
                    message = group.receive()
            except PeerLostError as lost:
                raise unhealthy or lost from None
            if message.get("finished"):
                group.agree(0)
                return
            if (metered := message.get("metered")) is not None:
                meter = Meter.on_node(metered) if ranks.meters_its_node else meter
                continue
            try:
                _take_part(message, group, listener, stop, meter)
            except UnhealthyError as error:  # ends this training; rank 0 may start another one
                unhealthy = error
            gc.collect()
    finally:
        meter.stop()


def _take_part(message: dict[str, Any], group: ProcessGroup, listener: Listener, stop: StopRequest, meter: Meter) -> None:
    """Take part in one training."""
    with stop.at_once("no step was taken yet"):
        write_into(Path(message["folder"]))
        micro_batches = _begin(message, group, listener, stop, meter)
    components, progress = micro_batches.components, micro_batches.components.progress
    work = ShardedWork(micro_batches.recipe, components, stop.should_stop)
    with steps_of_ranks(FollowingHooks(listener, micro_batches, meter), work, progress.step, stop, meter.stop) as hooks:
        meter.phase("train", progress.step)
        try:
            train(components.stepper, components.loader, components.schedule, components.plan, hooks, progress)
        finally:
            meter.phase(FINISH)


def _begin(message: dict[str, Any], group: ProcessGroup, listener: Listener, stop: StopRequest, meter: Meter) -> MicroBatches:
    """Prepare the data, from the cache that rank 0 has filled if it is shared, and assemble the same components as rank 0, which are those
    of the micro-batches.
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
    make_deterministic(device)
    keep_freed_memory()
    model = first_model(recipe, data, listener, group)
    components = assemble(recipe, data, model, device, message["micro_batch_size"], listener, peers=group, checkpoint=checkpoint)
    if recipe.training.compile:
        compile_model(model, by_block=recipe.parallel.shard > 1)
    return MicroBatches(recipe, device, listener, components, restored=checkpoint is not None)
