"""Measure the speed of this machine at each kind of operation of a training, once, in a second or two, and cache the result.

The speed of one large matrix product would not suffice, and forecasts from it would be wrong by a factor of ten: narrow products,
attention in short rows, the softmax over a vocabulary, optimizer steps and call overhead each have their own speed.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, TypeAdapter

from tfkit.data.store.folder_cache import cache_folder
from tfkit.durable import write_atomically
from tfkit.engine.planning import speed_measurements as measured
from tfkit.engine.planning.forecast_history import TABLE_VERSION
from tfkit.errors import TfkitError
from tfkit.run import strict_json
from tfkit.run.machine import machine_name, usable_cores, version
from tfkit.training.device import keep_freed_memory

FOLDER = "machine-speed"  # the folder of the cached speeds, in the cache folder
WIDTHS = (32, 128, 512, 1024)  # the smallest of the three sizes of each measured matrix product
LENGTHS = (32, 128, 512)  # tokens per row in the measurements of attention
HEAD_DIM = 64  # head_dim in the measurements of attention
# An operation is a matrix product, with its smallest size; fused attention, with the tokens per row, head_dim, and whether it is causal; or
# any other, named by its field of MachineSpeed. Products are counted in FLOPs, attention in FLOPs of visible pairs of positions.
Operation = tuple[Literal["products"], int] | tuple[Literal["attention"], int, int, bool] | str
Speed = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SpeedOfWidths = Annotated[tuple[Speed, ...], Field(min_length=len(WIDTHS), max_length=len(WIDTHS))]
SpeedOfLengths = Annotated[tuple[Speed, ...], Field(min_length=len(LENGTHS), max_length=len(LENGTHS))]


@dataclass(frozen=True)
class MachineSpeed:
    """How much a device processes per second, in one precision and with one number of threads; forward and backward, unless noted."""

    products: SpeedOfWidths  # FLOP/s of a matrix product and its two gradients, by its smallest size (WIDTHS)
    attention: SpeedOfLengths  # FLOP/s of attention without a mask, by the length of a row (LENGTHS)
    causal_attention: SpeedOfLengths  # FLOP/s of visible pairs in causal attention, by the length of a row
    narrow_attention: Speed  # FLOP/s as in `attention`, at the middle length, with half the head_dim
    scores: Speed  # attention scores (elements of QK^T) without a fused kernel, so that they are kept for the backward pass
    dropped_scores: Speed  # as `scores`, with dropout
    forward: Speed  # the speed of a forward pass alone, divided by that of forward and backward
    elements: Speed  # elements through a LayerNorm, an activation function and a sum
    rms_elements: Speed  # as `elements`, with an RMSNorm
    logits: Speed  # elements through a softmax in float32
    updates: Speed  # elements through an optimizer step with two moments
    blocks: Speed  # calls of tiny blocks, whose time is call overhead
    written_blocks: Speed  # as `blocks`, in generation, which has no backward pass
    sampled: Speed  # tokens generated for the rows of a batch other than its first row
    bytes: Speed  # bytes of weights that are multiplied by the vector of a single position, without a backward pass

    def of(self, operation: Operation) -> float:
        """Return the speed of an operation; for products and attention, it is interpolated between the measured sizes."""
        match operation:
            case "products", width:
                return _interpolate(WIDTHS, self.products, width)
            case "attention", length, head_dim, causal:  # FLOP/s rise with head_dim, as a pair of positions takes hardly longer
                power = math.log2(max(1.0, self.attention[len(LENGTHS) // 2] / self.narrow_attention))
                speeds = self.causal_attention if causal else self.attention
                return _interpolate(LENGTHS, speeds, length) * math.pow(head_dim / HEAD_DIM, min(1.0, power))
            case _:
                return float(getattr(self, operation))


def _interpolate(sizes: Sequence[int], speeds: Sequence[float], size: int) -> float:
    """Return the speed at a size, interpolated on log-log axes. Below `sizes`, it is proportional to the size; above them, constant."""
    if size <= sizes[0]:
        return speeds[0] * size / sizes[0]
    for (low, slow), (high, fast) in pairwise(zip(sizes, speeds, strict=True)):
        if size <= high:
            fraction = math.log(size / low) / math.log(high / low)
            return float(slow ** (1 - fraction) * fast**fraction)
    return speeds[-1]


@cache
def machine_speed(device: torch.device, precision: torch.dtype, threads: int) -> MachineSpeed:
    """Return the speeds from the cache; without valid ones there, measure and cache them. A cache that cannot be written is ignored."""
    path = None
    key = f"{device_name(device)}\0{precision}\0{threads}"
    with contextlib.suppress(TfkitError, OSError):
        path = cache_folder() / FOLDER / f"{hashlib.blake2b(key.encode(), digest_size=12).hexdigest()}.json"
    if path is not None and (cached := _read(path)) is not None:
        return cached
    speed = measure(device, precision)
    if path is not None:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, strict_json.dumps({"schema_version": TABLE_VERSION, "load": _load(), **asdict(speed)}))
    return speed


def measure(device: torch.device, precision: torch.dtype) -> MachineSpeed:
    """Measure each speed as that of the fastest of several repetitions, since other programs may slow some repetitions down."""
    keep_freed_memory()  # as a training does
    with torch.enable_grad():
        full, causal = (
            tuple(measured.attention(device, precision, length, HEAD_DIM, causal=causal) for length in LENGTHS) for causal in (False, True)
        )
        return MachineSpeed(
            products=tuple(measured.product(device, precision, width) for width in WIDTHS),
            attention=full,
            causal_attention=causal,
            narrow_attention=measured.attention(device, precision, LENGTHS[len(LENGTHS) // 2], HEAD_DIM // 2, causal=False),
            scores=measured.scores(device, precision, dropout=0.0),
            dropped_scores=measured.scores(device, precision, dropout=0.1),
            forward=measured.forward(device, precision),
            elements=measured.elements(device, precision, "layer"),
            rms_elements=measured.elements(device, precision, "rms"),
            logits=measured.logits(device, precision),
            updates=measured.updates(device),
            blocks=measured.blocks(device, precision),
            **measured.writing(device, precision),
            bytes=measured.weight_bytes(device, precision),
        )


def device_name(device: torch.device) -> str:
    """Return the name under which the speeds and past runs of this machine or GPU are stored."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {version('torch')}"
    return machine_name() + ("" if device.type == "cpu" else f", {device.type}")


def _read(path: Path) -> MachineSpeed | None:
    """Return the speeds in a file; None if the file is missing, damaged or of another version.

    None also for speeds that were measured under a load above 1 per core, if the load is now below 0.5, so that they are measured again.
    """
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        document = json.loads(path.read_bytes())
        if document["schema_version"] != TABLE_VERSION or float(document["load"]) > 1 > 2 * _load():
            return None
        return TypeAdapter(MachineSpeed).validate_python(document)
    return None


def _load() -> float:
    """Return the system's load average per core; 0 if the system reports none."""
    with contextlib.suppress(OSError):
        return os.getloadavg()[0] / usable_cores()
    return 0.0
