"""The speed of this machine at what a training does, measured once in a second or two (speed_measurements.py) and kept in the cache.

One product and a fixed efficiency would be wrong by a factor of ten: a narrow product, attention in short rows, a softmax over a
vocabulary, an optimizer's step and the calls themselves have speeds of their own.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import torch

from tfkit.data.store.folder_cache import cache_folder
from tfkit.durable import write_atomically
from tfkit.engine.planning import speed_measurements as measured
from tfkit.engine.planning.forecast_history import TABLE
from tfkit.errors import TfkitError
from tfkit.run import strict_json
from tfkit.run.machine import machine_name, usable_cores, version
from tfkit.training.device import keep_freed_memory

FOLDER = "machine-speed"  # below the cache folder
WIDTHS = (32, 128, 512, 1024)
LENGTHS = (32, 128, 512)  # of rows, in attention
HEAD_DIM = 64  # of the heads of these


@dataclass(frozen=True)
class MachineSpeed:
    """Speeds on one device, in one precision, with one number of threads."""

    products: tuple[float, ...]  # FLOP/s of a product with its two gradients, whose smallest size is that of WIDTHS
    attention: tuple[float, ...]  # FLOP/s of pairs, forward and backward, in rows of LENGTHS whose positions all see each other
    causal_attention: tuple[float, ...]  # FLOP/s of visible pairs, where each position sees those before it
    narrow_attention: float  # as `attention` in rows of the middle length, with heads of half the width
    scores: float  # scores a second of an attention that keeps them, forward and backward
    dropped_scores: float  # the same where they have dropout
    forward: float  # the speed of a forward alone, as a multiple of that of forward and backward
    elements: float  # numbers a second through a LayerNorm, an activation and a sum, forward and backward
    rms_elements: float  # the same with an RMSNorm
    logits: float  # numbers a second through a softmax in float32
    updates: float  # numbers a second through an optimizer's step with two moments
    blocks: float  # blocks of a model a second, forward and backward, where they compute next to nothing
    written_blocks: float  # the same where a token is written
    sampled: float  # tokens a second that are drawn, of a row among others
    bytes: float  # of weights a second, where one position is multiplied by each

    def at_width(self, width: int) -> float:
        """Return the FLOP/s of a product of this width, between those that were measured."""
        return _between(WIDTHS, self.products, width)

    def of_attention(self, length: int, head_dim: int, causal: bool) -> float:
        """Return the FLOP/s of attention in rows of this length; most of its time is that of a pair, however wide the heads are."""
        power = math.log2(max(1.0, self.attention[len(LENGTHS) // 2] / self.narrow_attention))
        speeds = self.causal_attention if causal else self.attention
        return _between(LENGTHS, speeds, length) * math.pow(head_dim / HEAD_DIM, min(1.0, power))


def _between(sizes: Sequence[int], speeds: Sequence[float], size: int) -> float:
    """Return the speed at a size: below the smallest in proportion, above the largest as there."""
    if size <= sizes[0]:
        return speeds[0] * size / sizes[0]
    known = list(zip(sizes, speeds, strict=True))
    for (low, slow), (high, fast) in pairwise(known):
        if size <= high:
            share = math.log(size / low) / math.log(high / low)
            return float(slow ** (1 - share) * fast**share)
    return speeds[-1]


@cache
def machine_speed(device: torch.device, precision: torch.dtype, threads: int) -> MachineSpeed:
    """Return the speeds, from the cache or measured now. A damaged file is measured again, and one that cannot be written is left out."""
    path = _path(device, precision, threads)
    if path is not None and (known := _read(path)) is not None:
        return known
    found = measure(device, precision)
    if path is not None:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, strict_json.dumps({"schema_version": TABLE, "load": _load(), **asdict(found)}))
    return found


def measure(device: torch.device, precision: torch.dtype) -> MachineSpeed:
    """Measure the speeds; each is the best of several, since another program may be at work."""
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
    """Return the machine, or the GPU, whose speeds these are."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {version('torch')}"
    return machine_name() + ("" if device.type == "cpu" else f", {device.type}")


def _path(device: torch.device, precision: torch.dtype, threads: int) -> Path | None:
    about = f"{device_name(device)}\0{precision}\0{threads}"
    with contextlib.suppress(TfkitError, OSError):
        return cache_folder() / FOLDER / f"{hashlib.blake2b(about.encode(), digest_size=12).hexdigest()}.json"
    return None


def _read(path: Path) -> MachineSpeed | None:
    """Return what the file says; None if there is none, or it is damaged or of another version."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        document = json.loads(path.read_bytes())
        if document["schema_version"] != TABLE or float(document["load"]) > 1 > 2 * _load():  # it was busy then, and is not now
            return None
        found = MachineSpeed(**{field.name: _number_or_tuple(document[field.name]) for field in fields(MachineSpeed)})
        several = found.products, found.attention, found.causal_attention
        numbers = [*chain(*several), *(one for one in asdict(found).values() if not isinstance(one, tuple | list))]
        if [*map(len, several)] == [len(WIDTHS), len(LENGTHS), len(LENGTHS)] and all(math.isfinite(one) and one > 0 for one in numbers):
            return found
    return None


def _number_or_tuple(value: Any) -> Any:
    return tuple(float(one) for one in value) if isinstance(value, list) else float(value)


def _load() -> float:
    """Return the processes that want to compute for each core, by the system; 0 where it does not say."""
    try:
        return os.getloadavg()[0] / usable_cores()
    except OSError:
        return 0.0
