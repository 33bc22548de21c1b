"""A run on several ranks, or on a GPU that is not here: memory and traffic of simulated steps (simulated_step.py), time and energy by
data sheets. Nothing of it was measured.

Layouts are those of ZeRO (Rajbhandari et al. 2019, arXiv 1910.02054): replicated, each rank has all weights and adds up gradients with the
others; sharded, each has a part of weights, gradients and optimizer state, and gathers a block's weights where it needs them (stage 3).
"""

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from tfkit.carbon import resolve_place
from tfkit.data import BatchSizes, Loader
from tfkit.engine.components import batch_sizes
from tfkit.engine.planning.estimate import Estimate, FullPower, Range
from tfkit.engine.planning.forecast import emissions_of, parts_of
from tfkit.engine.planning.further_models import FurtherModels, further_models
from tfkit.engine.planning.gpus import GPUS, Gpu
from tfkit.engine.planning.memory_plan import choose_micro_batch, shapes_of
from tfkit.engine.planning.run_estimate import PROCESS_BYTES, bytes_of_row
from tfkit.engine.planning.run_flops import sampled_batches
from tfkit.engine.training_data import TrainingData
from tfkit.errors import UsageError
from tfkit.objectives.objective import Batch
from tfkit.objectives.registry import open_rows
from tfkit.recipe.reading.dealing import require_mesh
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.device import pick_precision
from tfkit.units import format_bytes

if TYPE_CHECKING:
    from tfkit.engine.planning.simulated_step import SimulatedStep

_TENSORS = "of a rank's tensors in a simulated step"
Layout = Literal["replicated", "sharded"]
# The part of the peak that training reaches: 0.21 of GPT-3 to 0.46 of PaLM (Chowdhery et al. 2022, arXiv 2204.02311, table 3).
UTILISATION = Range(0.5, 0.35, 0.15)  # of a short, a likely and a long time
_BOARD_LOAD = Range(0.6, 0.85, 1.0)  # of the board's power
_USABLE = 0.9  # of a GPU's memory by tensors: the rest is its driver's, the collectives', and lost between them
_NETWORK_BYTES = 1.25e9  # a second between machines without a GPU: 10 Gbit/s Ethernet
_UPDATE_BYTES = 32  # of a weight in an optimizer's step: read weight, gradient and two moments, write three, and the working weight


@dataclass(frozen=True)
class Cluster:
    """The memory of each rank, and the bytes that it sends in a step, in both layouts."""

    ranks: int
    gpu: str | None
    layout: Layout  # by which time and energy are planned: replicated, if that fits
    fits: bool  # the memory of the GPU
    rows_per_rank: int
    memory_bytes: dict[str, int]
    traffic_bytes_per_step: dict[str, int]
    tensor_bytes: dict[str, dict[str, int]]  # `memory_bytes` without the libraries, by what they are; `peak` is all of them
    sent_bytes: dict[str, dict[str, int]]  # `traffic_bytes_per_step` by kind of collective
    gathered_units: dict[str, int]  # of shared weights: blocks, and the rest


def require_known_gpu(gpu: str | None, probe: int, ranks: int) -> None:
    """Raise UsageError for a GPU that is not in the table, or one with a probe, and for fewer steps than none or ranks than one."""
    if probe < 0:
        raise UsageError(f"--probe {probe}: a number of steps is at least 0; give one")
    if ranks < 1:
        raise UsageError(f"--ranks {ranks}: a number of ranks is at least 1; give one")
    if gpu is not None and gpu not in GPUS:
        raise UsageError(f"--gpu {gpu}: no such GPU here; the GPUs are {', '.join(GPUS)}")
    if gpu is not None and probe:
        raise UsageError(f"--probe {probe} takes its steps on this machine, and --gpu {gpu} plans for another: leave one of them out")


def require_ranks(recipe: Recipe, ranks: int) -> None:
    """Raise UsageError for a batch that does not divide by the ranks, with numbers of them that it divides by."""
    size = batch_unit(recipe)
    if size % ranks:
        dividing = [count for count in range(1, size + 1) if size % count == 0]
        near = dict.fromkeys([max(one for one in dividing if one < ranks), min((one for one in dividing if one > ranks), default=size)])
        raise UsageError(
            f"--ranks {ranks}: a batch of {size:,} rows does not divide by {ranks} ranks; take {' or '.join(map(str, near))} ranks, or "
            "another training.batch_size"
        )


def batch_unit(recipe: Recipe) -> int:
    """Return the rows that every step has a multiple of."""
    ramp = recipe.training.batch_ramp
    return recipe.training.batch_size if ramp is None else BatchSizes(recipe.training.batch_size, ramp.start, 1.0).unit


def with_cluster(plan: Estimate, recipe: Recipe, data: TrainingData, ranks: int, gpu_name: str | None) -> Estimate:
    """Return the plan for these ranks, of one GPU each where one is named, else of one machine like this each.

    Raises UsageError where they are not the mesh of the recipe.
    """
    from tfkit.engine.planning.simulated_step import (
        Mesh,
        has_simulated_companions,
        simulate,
    )  # with torch's compiler: a second that other plans need not take

    require_mesh(recipe, ranks)
    gpu = GPUS[gpu_name] if gpu_name is not None else None
    precision = recipe.training.precision
    dtype = pick_precision(precision if gpu is None or precision != "auto" else "bf16", torch.device("cpu"))
    rows = open_rows(recipe, data.objective, data.train, data.config)
    row_bytes = bytes_of_row(data, rows, dtype.itemsize, gpu is not None)
    sizes = batch_sizes(recipe, rows)
    micro = recipe.training.micro_batch_size or choose_micro_batch(sizes.unit, rows.longest, row_bytes, None, ranks)
    micro = min(micro, recipe.training.batch_size // ranks)
    batch = _fullest(data, Loader(rows, data.objective.collate, sizes, micro), plan.steps)
    shards = recipe.parallel.shard if recipe.parallel.shard > 1 else ranks
    meshes = {
        layout: Mesh(
            ranks, each, recipe.parallel.reshard is not False, recipe.training.batch_size // ranks // micro, dtype, gpu is not None
        )
        for layout, each in (("replicated", 1), ("sharded", shards))
    }
    found = {layout: simulate(recipe, data.config, data.objective, batch, mesh) for layout, mesh in meshes.items()}
    model = shapes_of(recipe, data.config)
    further = {layout: further_models(recipe, data.objective, model, dtype, mesh.shards) for layout, mesh in meshes.items()}
    is_complete = has_simulated_companions(data.objective)
    tensors = {name: _tensors_of(one, further[name], is_complete) for name, one in found.items()}
    memory = {layout: one["peak"] + (PROCESS_BYTES if gpu is None else 0) for layout, one in tensors.items()}
    traffic = {layout: sum(one.sent.values()) for layout, one in found.items()}
    room = _USABLE * gpu.memory_bytes if gpu is not None else None
    replicated = recipe.parallel.shard == 1 and (room is None or memory["replicated"] <= room or ranks == 1)
    layout: Layout = "replicated" if replicated else "sharded"
    fits = room is None or memory[layout] <= room
    sent = {name: one.sent for name, one in found.items()}
    per_rank = recipe.training.batch_size // ranks
    cluster = Cluster(ranks, gpu_name, layout, fits, per_rank, memory, traffic, tensors, sent, found["sharded"].units)
    changed = replace(plan, micro_batch_size=micro, memory_bytes=memory[layout], cluster=asdict(cluster))
    if gpu is not None:
        return _on_gpus(changed, recipe, plan.trained_parameters, ranks, gpu, traffic[layout])
    return _on_machines(changed, ranks, traffic[layout]) if ranks > 1 else changed


def _tensors_of(one: "SimulatedStep", further: FurtherModels, is_complete: bool) -> dict[str, int]:
    """Return the bytes of a rank's tensors by what they are, and their peak: in a step, or where responses are sampled. `is_complete`: the
    simulated peak includes the further models.
    """
    if is_complete:
        return {**one.held, "companions": further.held, "peak": one.peak}
    sampling = sum(one.held[name] for name in ("weights", "optimizer", "mean", "working")) + further.sampling
    return {**one.held, "companions": further.held, "peak": further.held + max(one.peak + further.at_work, sampling)}


def _fullest(data: TrainingData, loader: Loader[Any], steps: int) -> Batch:
    """Return the micro-batch with the most tokens among those of steps all over the run; of these one that needs a mask."""
    batches = (batch for batch, _ in sampled_batches(data, loader, steps))
    return max(batches, key=lambda batch: (batch.input_ids.numel(), batch.document_ids is not None))


def _on_gpus(plan: Estimate, recipe: Recipe, trained: int, ranks: int, gpu: Gpu, traffic: int) -> Estimate:
    """Return time and energy by the data sheet: products at a part of the peak, updates at the memory's speed, traffic over the links."""
    sent, update = plan.steps * traffic / gpu.link_bytes_per_second, plan.steps * trained * _UPDATE_BYTES / gpu.bytes_per_second
    work = plan.flops["total"] / ranks / gpu.peak_flops
    low, likely, high = (work / one + update for one in (UTILISATION.low, UTILISATION.likely, UTILISATION.high))
    # Traffic is beside the work, or behind it.
    start = plan.seconds_beside_steps
    seconds = Range(max(low, sent), likely + sent / 2, high + sent) + Range(start, start, 2 * start)
    pue, place = recipe.carbon.pue, resolve_place(recipe.carbon)
    watts = _BOARD_LOAD * (ranks * gpu.watts)
    energy = Range(seconds.low * watts.low, seconds.likely * watts.likely, seconds.high * watts.high) * (pue / 3.6e6)
    hours = seconds.likely / 3600
    grams = ranks * gpu.watts * hours / 1000 * place.intensity_g_per_kwh
    full = FullPower(f"{ranks} x {gpu.name}", ranks * gpu.watts, hours, grams, gpu.source)
    how = {
        "memory_bytes": f"{_TENSORS}; the {gpu.name} has {gpu.memory_bytes / 1e9:.0f} GB, of which they may take {_USABLE:.0%}",
        "seconds": f"{gpu.peak_flops / 1e12:.0f} TFLOP/s of dense bf16 ({gpu.source}), of which {UTILISATION.high:.0%} to "
        f"{UTILISATION.low:.0%} are used, likely {UTILISATION.likely:.0%}; {format_bytes(traffic)} sent per step; "
        "never compared with a real run",
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


def _on_machines(plan: Estimate, ranks: int, traffic: int) -> Estimate:
    """Return time and energy of as many machines like this one, over a network."""
    sent, rest = plan.steps * traffic / _NETWORK_BYTES, plan.seconds_beside_steps
    seconds = plan.seconds

    def divided(value: float, traffic_share: float) -> float:
        fixed = min(rest, value)
        return fixed + (value - fixed) / ranks + sent * traffic_share

    spread = Range(divided(seconds.low, 0.0), divided(seconds.likely, 1.0), divided(seconds.high, 2.0))
    factor = Range(*(new / old if old else 1.0 for new, old in zip(parts_of(spread), parts_of(seconds), strict=True)))
    energy = Range(*(ranks * one * of for one, of in zip(parts_of(plan.energy_kwh), parts_of(factor), strict=True)))
    grams = Range(*(ranks * one * of for one, of in zip(parts_of(plan.emissions_g), parts_of(factor), strict=True)))
    how = {
        "memory_bytes": f"{_TENSORS}, and {format_bytes(PROCESS_BYTES)} of libraries",
        "seconds": f"{plan.assumptions.get('seconds', '')}; the steps divided among {ranks} machines like this one, and "
        f"{format_bytes(traffic)} sent in each over 10 Gbit/s; never compared with a real run",
    }
    full = plan.full_power
    if full is not None:
        hours = spread.likely / 3600
        times = ranks * hours / full.hours if full.hours else ranks
        full = replace(
            full, hardware=f"{ranks} x {full.hardware}", watts=ranks * full.watts, hours=hours, emissions_g=full.emissions_g * times
        )
    return replace(plan, seconds=spread, energy_kwh=energy, emissions_g=grams, assumptions=plan.assumptions | how, full_power=full)
