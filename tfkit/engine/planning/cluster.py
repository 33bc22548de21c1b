"""Plans for several ranks (processes of one training), or for a GPU that this machine does not have.

Nothing is measured: the memory, and the bytes that ranks send, are from simulated steps (simulated_step.py); time and energy are from the
GPU's data sheet or, without a planned GPU, from the plan for this machine alone.

The weights have one of two layouts. Replicated: each rank has all weights, and gradients are all-reduced. Sharded, as in stage 3 of ZeRO
(Rajbhandari et al. 2019, arXiv 1910.02054): each rank has a shard of the weights, the gradients and the optimizer's state, and gathers the
weights of one block at a time.
"""

from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Literal

import torch

from tfkit.carbon import resolve_place
from tfkit.data import BatchSizes, Loader
from tfkit.engine.assembly.components import batch_sizes, meta_model
from tfkit.engine.assembly.memory_plan import run_memory, sums_gradients
from tfkit.engine.assembly.step_flops import sampled_batches
from tfkit.engine.assembly.training_data import TrainingData
from tfkit.engine.planning.forecast import PROCESS_BYTES, emissions_of
from tfkit.engine.planning.hardware import GPUS, Gpu
from tfkit.engine.training_run.estimate import Estimate, FullPower, Range
from tfkit.errors import UsageError, argument
from tfkit.model.transformer import Transformer
from tfkit.objectives.objective import Batch, Objective
from tfkit.objectives.registry import open_rows
from tfkit.recipe.reading.rank_divisibility import require_mesh
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.device import pick_precision
from tfkit.training.memory import Units, choose_micro_batch, largest_divisor, planned_row_bytes
from tfkit.units import format_bytes

if TYPE_CHECKING:
    from tfkit.engine.planning.simulated_step import Mesh, SimulatedStep

_PEAK = "the peak of a rank's tensors in a simulated step"
Layout = Literal["replicated", "sharded"]
# Model FLOPs utilization: 0.21 for GPT-3 to 0.46 for PaLM (Chowdhery et al. 2022, arXiv 2204.02311, table 3).
_UTILIZATION = Range(0.5, 0.35, 0.15)  # the fractions of the peak FLOP/s that give the low, the likely and the high time
_BOARD_LOAD = Range(0.6, 0.85, 1.0)  # power during the steps, as a fraction of the maximum power of the board
_USABLE = 0.9  # fraction of a GPU's memory that tensors may use; the driver, the collectives and fragmentation take the rest
_NETWORK_BYTES_PER_SECOND = 1.25e9  # assumed between machines if no GPU is planned: Ethernet of 10 Gbit/s
_UPDATE_BYTES = 32  # per weight: a step reads the weight, its gradient and 2 moments, and writes the weight, the moments and a working copy


@dataclass(frozen=True)
class Cluster:
    """The field `cluster` of `Estimate`: the memory of a rank, and the bytes that a rank sends in a step, in each layout."""

    ranks: int
    gpu: str | None  # the GPU of each rank; None: each rank has a machine like this one
    layout: Layout  # assumed for time and energy: replicated if the recipe does not shard, and the memory suffices or `ranks` is 1
    fits: bool  # whether the tensors fit into the GPU's memory; True if no GPU is planned
    rows_per_rank: int  # rows of each rank in a step
    memory_bytes: dict[str, int]  # peak memory of a rank, by layout
    traffic_bytes_per_step: dict[str, int]  # bytes that a rank sends in a step, by layout
    tensor_bytes: dict[str, dict[str, int]]  # bytes of a rank's tensors, by layout and kind; `peak`: the most at one time
    sent_bytes: dict[str, dict[str, int]]  # bytes that a rank sends per step, by layout and kind of collective
    gathered_units: dict[str, int]  # of gathered weights: number of blocks, bytes of the largest block, bytes of the weights outside blocks


def require_known_gpu(gpu: str | None, probe: int, ranks: int) -> None:
    """Raise UsageError for an unknown GPU, for a GPU with a probe (steps on this machine), for `probe` below 0, and for `ranks` below 1."""
    if not isinstance(probe, int) or probe < 0:
        raise UsageError(f"{argument('probe', probe)}: the number of steps must be at least 0")
    if not isinstance(ranks, int) or ranks < 1:
        raise UsageError(f"{argument('ranks', ranks)}: the number of ranks must be at least 1")
    if gpu is not None and gpu not in GPUS:
        raise UsageError(f"{argument('gpu', gpu)}: unknown GPU; choose one of {', '.join(GPUS)}")
    if gpu is not None and probe:
        raise UsageError(
            f"{argument('probe', probe)} takes its steps on this machine, and {argument('gpu', gpu)} plans for another: leave one "
            "of them out"
        )


def require_ranks(recipe: Recipe, ranks: int) -> None:
    """Raise UsageError if a batch cannot be divided evenly among the ranks; the message names the nearest numbers that are possible."""
    size, ramp = recipe.training.batch_size, recipe.training.batch_ramp
    size = size if ramp is None else BatchSizes(size, ramp.start, 1.0).unit  # number of rows of which each batch is a multiple
    if size % ranks:
        divisors = [count for count in range(1, size + 1) if size % count == 0]
        near = dict.fromkeys([max(count for count in divisors if count < ranks), min((n for n in divisors if n > ranks), default=size)])
        raise UsageError(
            f"{argument('ranks', ranks)}: a batch of {size:,} rows cannot be divided evenly among {ranks} ranks: use "
            f"{' or '.join(map(str, near))} ranks, or another training.batch_size"
        )


def with_cluster(plan: Estimate, recipe: Recipe, data: TrainingData, ranks: int, gpu_name: str | None) -> Estimate:
    """Return the plan for `ranks` ranks with a GPU `gpu_name` each (None: each on a machine like this one). `plan`: the plan for one rank.

    Raises UsageError if the ranks cannot be divided as the recipe's `parallel` section asks.
    """
    # Imported here, since this import loads PyTorch's compiler, which takes a second; plans for one rank of this machine do not need it.
    from tfkit.engine.planning.simulated_step import Mesh, simulate

    require_mesh(recipe, ranks)
    gpu = GPUS[gpu_name] if gpu_name is not None else None
    precision = recipe.training.precision
    dtype = pick_precision(precision if gpu is None or precision != "auto" else "bf16", torch.device("cpu"))
    batch, micro = _simulated_batch(recipe, data, ranks, dtype, plan.steps, on_gpu=gpu is not None)
    per_rank = recipe.training.batch_size // ranks
    shards = recipe.parallel.shard if recipe.parallel.shard > 1 else ranks
    model = meta_model(recipe, data.config)

    @cache  # with one shard, both layouts are the same, and are simulated once
    def simulated(shards: int) -> tuple[dict[str, int], dict[str, int]]:
        mesh = Mesh(ranks, shards, recipe.parallel.reshard is not False, per_rank // micro, dtype)
        step = simulate(recipe, data.config, data.objective, batch, mesh)
        return _tensor_bytes(recipe, data.objective, model, mesh, step), step.sent

    layouts = {"replicated": simulated(1), "sharded": simulated(shards)}
    tensors, sent = ({name: layout[part] for name, layout in layouts.items()} for part in (0, 1))
    memory = {name: sizes["peak"] + (PROCESS_BYTES if gpu is None else 0) for name, sizes in tensors.items()}
    traffic = {name: sum(kinds.values()) for name, kinds in sent.items()}
    usable = _USABLE * gpu.memory_bytes if gpu is not None else None
    replicated = recipe.parallel.shard == 1 and (usable is None or memory["replicated"] <= usable or ranks == 1)
    layout: Layout = "replicated" if replicated else "sharded"
    fits = usable is None or memory[layout] <= usable
    units = Units.of(dict(model.named_parameters()))
    in_turn = {"blocks": units.count, "block_bytes": units.largest * dtype.itemsize, "rest_bytes": units.root * dtype.itemsize}
    cluster = Cluster(ranks, gpu_name, layout, fits, per_rank, memory, traffic, tensors, sent, in_turn)
    changed = replace(plan, micro_batch_size=micro, memory_bytes=memory[layout], cluster=asdict(cluster))
    if gpu is not None:
        return _plan_gpus(changed, recipe, ranks, gpu, traffic[layout], shards if layout == "sharded" else 1)
    return _plan_machines(changed, ranks, traffic[layout]) if ranks > 1 else changed


def _simulated_batch(recipe: Recipe, data: TrainingData, ranks: int, dtype: torch.dtype, steps: int, *, on_gpu: bool) -> tuple[Batch, int]:
    """Return the largest sampled micro-batch (among equally large ones, one with packed documents), and how many rows a micro-batch has."""
    rows = open_rows(recipe, data.objective, data.train, data.config)
    checkpointing = recipe.training.activation_checkpointing
    row_bytes = planned_row_bytes(
        data.config, data.objective, rows.longest, dtype.itemsize, has_fused_dropout=on_gpu, checkpointing=checkpointing
    )
    sizes = batch_sizes(recipe, rows)
    micro = recipe.training.micro_batch_size or choose_micro_batch(sizes.unit, rows.longest, row_bytes, None, ranks)
    micro = largest_divisor(recipe.training.batch_size // ranks, micro)  # a rank's micro-batches all have the same number of rows
    batches = (batch for batch, _ in sampled_batches(data, Loader(rows, data.objective.collate, sizes, micro), steps))
    return max(batches, key=lambda batch: (batch.input_ids.numel(), batch.document_ids is not None)), micro


def _tensor_bytes(recipe: Recipe, objective: Objective, model: Transformer, mesh: "Mesh", step: "SimulatedStep") -> dict[str, int]:
    """Return the bytes of a rank's tensors by kind, and their peak in a step or while responses are sampled, whichever is higher.

    To sample and score responses, a rank with sharded weights gathers one whole model at a time: the trained model or a companion, such as
    a reward model.
    """
    sums = sums_gradients(objective, mesh.micro_batches, 1, mesh.ranks)
    models = run_memory(recipe, objective, model, mesh.dtype, shards=mesh.shards, sums_gradients=sums)
    own, further, peak = models.own, models.further, step.peak
    if not step.has_companions:
        gathered = [model, *(one.model for one in objective.companions)] if objective.rollouts is not None and mesh.shards > 1 else []
        largest = max((sum(parameter.numel() for parameter in one.parameters()) for one in gathered), default=0)
        peak = further.held + max(peak + further.in_step, own.held + mesh.dtype.itemsize * largest)
    kinds = {name: getattr(own, name) for name in ("weights", "gradients", "optimizer", "mean", "working", "gathered")}
    return {**kinds, "activations": step.activations, "companions": further.held, "peak": peak}


def _plan_gpus(plan: Estimate, recipe: Recipe, ranks: int, gpu: Gpu, traffic: int, shards: int) -> Estimate:
    """Return the plan with time and energy from the data sheet of `gpu`.

    FLOPs are computed at a fraction of the peak speed, and weights are updated at the memory bandwidth. `traffic`: the bytes that a rank
    sends in a step; `shards`: the number of ranks that share the updates of one copy of the weights.
    """
    sent = plan.steps * traffic / gpu.link_bytes_per_second
    update = plan.steps * plan.trained_parameters / shards * _UPDATE_BYTES / gpu.bytes_per_second
    work = plan.flops["total"] / ranks / gpu.peak_flops
    low, likely, high = (work / utilization + update for utilization in _UTILIZATION)
    start = plan.fixed_seconds
    # The low, likely and high time assume that communication overlaps with computation entirely, by half, or not at all.
    seconds = Range(max(low, sent), likely + sent / 2, high + sent) + Range(start, start, 2 * start)
    pue, place = recipe.carbon.pue, resolve_place(recipe.carbon)
    watts = _BOARD_LOAD * (ranks * gpu.watts)
    energy = Range(seconds.low * watts.low, seconds.likely * watts.likely, seconds.high * watts.high) * (pue / 3.6e6)
    hours = seconds.likely / 3600
    grams = ranks * gpu.watts * hours / 1000 * place.intensity_g_per_kwh
    full = FullPower(f"{ranks} x {gpu.name}", ranks * gpu.watts, hours, grams, gpu.source)
    how = {
        "memory_bytes": f"{_PEAK}; tensors may use {_USABLE:.0%} of the {gpu.memory_bytes / 1e9:.0f} GB of the {gpu.name}",
        "seconds": f"{_UTILIZATION.high:.0%} to {_UTILIZATION.low:.0%}, likely {_UTILIZATION.likely:.0%}, of {gpu.peak_flops / 1e12:.0f} "
        f"TFLOP/s of dense bf16 ({gpu.source}); {format_bytes(traffic)} sent per step; never compared with a real run",
        "energy_kwh": f"{_BOARD_LOAD.low:.0%} to {_BOARD_LOAD.high:.0%} of {ranks} x {gpu.watts:g} W, the boards without their hosts; "
        f"PUE {pue:g}",
    }
    return replace(
        plan,
        seconds=seconds,
        energy_kwh=energy,
        emissions_g=emissions_of(energy, place)[0],
        basis="table",
        assumptions=plan.assumptions | how,
        full_power=full,
        table_seconds={"start": start, "steps": likely, "traffic": sent / 2},
    )


def _plan_machines(plan: Estimate, ranks: int, traffic: int) -> Estimate:
    """Return the plan with the time and energy of `ranks` machines like this one, each with one rank, connected by Ethernet."""
    sent = plan.steps * traffic / _NETWORK_BYTES_PER_SECOND

    def divide(seconds: float, traffic_share: float) -> float:
        fixed = min(plan.fixed_seconds, seconds)
        return fixed + (seconds - fixed) / ranks + sent * traffic_share

    seconds = Range(*(divide(value, share) for value, share in zip(plan.seconds, (0.0, 1.0, 2.0), strict=True)))
    factors = [new / old if old else 1.0 for new, old in zip(seconds, plan.seconds, strict=True)]
    energy = Range(*(ranks * value * factor for value, factor in zip(plan.energy_kwh, factors, strict=True)))
    grams = Range(*(ranks * value * factor for value, factor in zip(plan.emissions_g, factors, strict=True)))
    how = {
        "memory_bytes": f"{_PEAK}, plus {format_bytes(PROCESS_BYTES)} of libraries",
        "seconds": f"{plan.assumptions.get('seconds', '')}; the steps divided among {ranks} machines like this one, with "
        f"{format_bytes(traffic)} sent per step over 10 Gbit/s; never compared with a real run",
    }
    full = plan.full_power
    if full is not None:
        hours = seconds.likely / 3600
        times = ranks * hours / full.hours if full.hours else ranks
        full = replace(
            full, hardware=f"{ranks} x {full.hardware}", watts=ranks * full.watts, hours=hours, emissions_g=full.emissions_g * times
        )
    return replace(plan, seconds=seconds, energy_kwh=energy, emissions_g=grams, assumptions=plan.assumptions | how, full_power=full)
