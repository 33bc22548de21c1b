"""Assemble a prepared run: its weights, optimizer, loader and hooks, restored from its newest good checkpoint."""

from pathlib import Path
from typing import Literal

from tfkit.engine.assembled_run import AssembledRun, no_step_yet
from tfkit.engine.baseline_scores import training_baselines
from tfkit.engine.checkpointing import Checkpointer
from tfkit.engine.components import Components, assemble, first_model, restore, trained_numel
from tfkit.engine.leading import Leader
from tfkit.engine.loop_hooks import LoopHooks
from tfkit.engine.micro_batches import MicroBatches
from tfkit.engine.planning.estimate import Estimate
from tfkit.engine.planning.memory_plan import planned_bytes
from tfkit.engine.resuming import require_length
from tfkit.engine.training_data import RunContext, TrainingData
from tfkit.engine.training_log import TrainingLog, saved_log
from tfkit.engine.validator import Validator
from tfkit.families import PRESETS
from tfkit.model.transformer import Transformer
from tfkit.run.checkpoints import newest_good, require_free_space
from tfkit.training.checkpoint import load_training_state
from tfkit.training.device import compile_model, keep_freed_memory, make_deterministic, peak_flops
from tfkit.training.loop import Progress

Kind = Literal["pre-training", "fine-tuning"]


def assemble_run(
    context: RunContext, data: TrainingData, planned: Estimate, leader: Leader, kind: Kind, *, exact: bool, force: bool
) -> AssembledRun:
    """Build the model, and assemble its training from the newest good checkpoint on.

    `exact`: do not fall back to an older checkpoint; `force`: start even if the planned checkpoints do not fit the disk. Raises Stopped,
    ModelError, DataError and MachineError.
    """
    recipe, listener, device = context.recipe, context.listener, context.device
    model = first_model(recipe, data, listener, leader.peers)
    make_deterministic(device)
    keep_freed_memory()
    resumed_from = newest_good(context.folder.checkpoints, listener.warn, exact)
    tensors, state = load_training_state(resumed_from) if resumed_from else ({}, {})
    saved = saved_log(resumed_from, state, data.fingerprints()) if resumed_from else None
    _announce_size(model, context)
    if not force:
        require_free_space(context.folder.checkpoints, planned_bytes(recipe, model, data.objective.companions))
    size = state.get("micro_batch_size") or recipe.training.micro_batch_size or 1
    with context.stop.at_once(no_step_yet(resumed_from)):
        leader.begin(recipe, data, context.folder.path, resumed_from, size, device)
        components = assemble(recipe, data, model, device, size, listener, context.budget.should_end, leader.peers)
    data = components.data
    progress = restore(components, resumed_from, tensors, state) if resumed_from else Progress()
    require_length(context.folder.path, components.plan.steps, progress.step)
    micro_batches = _micro_batches(context, components, resumed_from, size, leader.peers.ranks.size)
    if recipe.training.compile:
        compile_model(model, by_block=recipe.parallel.shard > 1)
    flops_per_token = planned.training_flops / planned.tokens
    log = TrainingLog(context, components.plan, progress, flops_per_token, peak_flops(device, components.precision), saved)
    checkpointer = Checkpointer(context, data, components, log, kind=kind, family=_family(context, data))
    validator = Validator(context, data, components, log, checkpointer)
    hooks = LoopHooks(context, components, log, checkpointer, validator, micro_batches, checkpointer.work)
    with context.stop.at_once("no step was taken yet"):
        baselines = training_baselines(recipe)
    return AssembledRun(
        context,
        planned,
        leader,
        data,
        components,
        resumed_from,
        progress,
        micro_batches,
        log,
        checkpointer,
        validator,
        hooks,
        baselines,
    )


def _announce_size(model: Transformer, context: RunContext) -> None:
    """Report how many parameters are trained, if some are frozen."""
    parameters, trained = sum(parameter.numel() for parameter in model.parameters()), trained_numel(model)
    if trained < parameters:
        context.listener.say(f"training {trained:,} of {parameters:,} parameters")


def _micro_batches(context: RunContext, components: Components, resumed_from: Path | None, size: int, ranks: int) -> MicroBatches:
    """Return the micro-batches of a run; their size is chosen if neither the recipe nor a checkpoint gives it."""
    micro_batches = MicroBatches(context.recipe, context.device, context.listener, components, restored=resumed_from is not None)
    if context.recipe.training.micro_batch_size is None and not (resumed_from and micro_batches.is_even):
        micro_batches.choose()
        if resumed_from:
            context.listener.say(
                f"micro-batches of {size:,} rows cannot be divided evenly among {ranks:,} ranks: from now on they have "
                f"{components.loader.micro_batch_size:,}, with the same steps and other dropout masks"
            )
    return micro_batches


def _family(context: RunContext, data: TrainingData) -> str | None:
    """Return the family in whose format the model's configuration is written: the base model's or the preset's."""
    preset = context.recipe.model.preset
    return data.start.described.family if data.start else PRESETS[preset][0].name if preset else None
