"""A run on several ranks, or on a GPU that is not here: memory, traffic, time and energy from data sheets. Nothing of it was measured.

Layouts are those of ZeRO (Rajbhandari et al. 2019, arXiv 1910.02054): replicated, each rank has all weights and adds up gradients with the
others; sharded, each has a part of weights, gradients and optimizer state, and gathers a block's weights where it needs them (stage 3).
"""

from dataclasses import asdict, dataclass, replace
from typing import Literal

from tfkit.carbon import resolve_place
from tfkit.data import BatchSizes
from tfkit.engine.components import batch_sizes, trained_numbers
from tfkit.engine.planning.estimate import Estimate, FullPower, Range
from tfkit.engine.planning.forecast import emissions_of, parts_of
from tfkit.engine.planning.gpus import GPUS, Gpu
from tfkit.engine.planning.memory_plan import choose_micro_batch, kept_numbers, shapes_of
from tfkit.engine.planning.run_estimate import PROCESS_BYTES, bytes_of_row
from tfkit.engine.training_data import TrainingData
from tfkit.errors import UsageError
from tfkit.model.transformer import Transformer
from tfkit.objectives.registry import open_rows
from tfkit.recipe.reading.dealing import require_mesh
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.memory import likely_peak
from tfkit.units import format_bytes

Layout = Literal["replicated", "sharded"]
# The part of the peak that training reaches: 0.21 of GPT-3 to 0.46 of PaLM (Chowdhery et al. 2022, arXiv 2204.02311, table 3).
UTILISATION = Range(0.5, 0.35, 0.15)  # of a short, a likely and a long time
_BOARD_LOAD = Range(0.6, 0.85, 1.0)  # of the board's power
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


def require_known_gpu(gpu: str | None, probe: int, ranks: int) -> None:
    """Raise UsageError for a GPU that is not in the table, or one with a probe, and for fewer steps than none or ranks than one."""
    if probe < 0:
        raise UsageError(f"--probe {probe}: a number of steps is at least 0; give one")
    if ranks < 1:
        raise UsageError(f"--ranks {ranks}: a number of ranks is at least 1; give one")
    if gpu is not None and gpu not in GPUS:
        raise UsageError(f"--gpu {gpu}: no such GPU here; there are {', '.join(GPUS)}")
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
    require_mesh(recipe, ranks)
    gpu = GPUS[gpu_name] if gpu_name is not None else None
    model = shapes_of(recipe, data.config)
    rows = open_rows(recipe, data.objective, data.train, data.config)
    itemsize = 2 if gpu is not None else 4
    row_bytes = bytes_of_row(data, rows, itemsize, gpu is not None)
    micro = recipe.training.micro_batch_size or choose_micro_batch(batch_sizes(recipe, rows).unit, rows.longest, row_bytes, None, ranks)
    micro = min(micro, recipe.training.batch_size // ranks)
    logits = micro * rows.longest * data.config.vocab_size * itemsize if data.config.head.kind in ("lm", "masked_lm") else 0
    # Of a GPU with the margin, because nobody tried it; here as the plan of one process has it.
    beside = likely_peak(PROCESS_BYTES, 0, micro * row_bytes, logits) if gpu is None else micro * row_bytes + likely_peak(0, 0, 0, logits)
    shards = recipe.parallel.shard if recipe.parallel.shard > 1 else ranks
    memory = _memory(recipe, model, shards, itemsize, beside)
    steps = recipe.training.batch_size // ranks // micro
    traffic = _traffic(recipe, model, ranks, shards, itemsize, steps)
    room = gpu.memory_bytes if gpu is not None else None
    replicated = recipe.parallel.shard == 1 and (room is None or memory["replicated"] <= room or ranks == 1)
    layout: Layout = "replicated" if replicated else "sharded"
    fits = room is None or memory[layout] <= room
    cluster = Cluster(ranks, gpu_name, layout, fits, recipe.training.batch_size // ranks, memory, traffic)
    changed = replace(plan, micro_batch_size=micro, memory_bytes=memory[layout], cluster=asdict(cluster))
    if gpu is not None:
        return _on_gpus(changed, recipe, trained_numbers(model), ranks, gpu, traffic[layout])
    return _on_machines(changed, ranks, traffic[layout]) if ranks > 1 else changed


def _memory(recipe: Recipe, model: Transformer, shards: int, itemsize: int, beside: int) -> dict[str, int]:
    """Return the bytes of a rank: fp32 master, gradients, optimizer state, the working copy, and `beside` these activations and logits."""
    parameters = sum(one.numel() for one in model.parameters())
    trained, kept = trained_numbers(model), kept_numbers(recipe, model)
    numbers = parameters + trained + kept
    working = parameters * itemsize if itemsize < 4 else 0
    blocks = [sum(one.numel() for one in block.parameters()) for stack in model.stacks for block in stack.blocks]
    # Embedding, last norm and head stay gathered between forward and backward; of the blocks the one at work and the next.
    gathered = (parameters - sum(blocks) + 2 * max(blocks)) * itemsize
    return {
        "replicated": 4 * numbers + working + beside,
        # The working copy is what is gathered; Adafactor's means of rows and columns are whole on every rank.
        "sharded": 4 * ((parameters + trained) // shards + (kept if recipe.optimizer.kind == "adafactor" else kept // shards))
        + (gathered if shards > 1 else working)
        + beside,
    }


def _traffic(recipe: Recipe, model: Transformer, ranks: int, shards: int, itemsize: int, micro_batches: int) -> dict[str, int]:
    """Return the bytes that a rank sends in a step, by rings: an all-reduce of the fp32 gradients; or, sharded, for every micro-batch an
    all-gather of the working weights in the forward and the backward pass, and a reduce-scatter of the gradients, whose parts replicas add
    up. With `parallel.reshard` false weights are gathered in the forward only, and gradients added up once.
    """
    parameters, trained, replicas = sum(one.numel() for one in model.parameters()), trained_numbers(model), ranks // shards
    gathers, sums = (micro_batches, 1) if recipe.parallel.reshard is False else (2 * micro_batches, micro_batches)
    sent = (shards - 1) / shards * (sums * 4 * trained + gathers * itemsize * parameters)
    return {
        "replicated": round(2 * (ranks - 1) / ranks * 4 * trained),
        "sharded": round(sent + sums * 2 * (replicas - 1) / replicas * 4 * trained / shards),
    }


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
        "memory_bytes": f"of a rank, by formula; the {gpu.name} has {gpu.memory_bytes / 1e9:.0f} GB",
        "seconds": f"{gpu.peak_flops / 1e12:.0f} TFLOP/s of dense bf16 ({gpu.source}), of which {UTILISATION.high:.0%} to "
        f"{UTILISATION.low:.0%} are used, likely {UTILISATION.likely:.0%}; {format_bytes(traffic)} sent a step; never tried",
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
        "seconds": f"{plan.assumptions.get('seconds', '')}; the steps divided among {ranks} machines like this one, and "
        f"{format_bytes(traffic)} sent in each over 10 Gbit/s: never tried",
    }
    full = plan.full_power
    if full is not None:
        hours = spread.likely / 3600
        times = ranks * hours / full.hours if full.hours else ranks
        full = replace(
            full, hardware=f"{ranks} x {full.hardware}", watts=ranks * full.watts, hours=hours, emissions_g=full.emissions_g * times
        )
    return replace(plan, seconds=spread, energy_kwh=energy, emissions_g=grams, assumptions=plan.assumptions | how, full_power=full)
