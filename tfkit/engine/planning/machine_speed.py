"""The speed of this machine at what a training does, measured once in about a second and kept in the cache.

One product and a fixed efficiency would be wrong by a factor of ten: a narrow product, a softmax over a vocabulary, an optimizer's step and
the calls themselves have speeds of their own.
"""

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tfkit.data.store.folder_cache import cache_folder
from tfkit.durable import write_atomically
from tfkit.errors import TfkitError
from tfkit.run import strict_json
from tfkit.run.machine import machine_name, usable_cores, version

FOLDER = "machine-speed"  # below the cache folder
WIDTHS = (32, 128, 512, 1024)
_VERSION = 1
_ROWS = 1024  # positions in a product
_SECONDS = 0.04  # for each measurement, after a first one that is not timed


@dataclass(frozen=True)
class MachineSpeed:
    """Speeds on one device, in one precision, with one number of threads."""

    products: tuple[float, ...]  # FLOP/s of a product whose smallest size is that of WIDTHS
    attention: float  # FLOP/s of visible pairs, forward and backward
    elements: float  # numbers a second through a norm, an activation and a sum, forward and backward
    logits: float  # numbers a second through a softmax in float32
    updates: float  # numbers a second through an optimizer's step with two moments
    calls: float  # modules a second, forward and backward, where they compute next to nothing
    bytes: float  # of weights a second, where one position is multiplied by each

    def at_width(self, width: int) -> float:
        """Return the FLOP/s of a product of this width, between those that were measured."""
        if width <= WIDTHS[0]:
            return self.products[0] * width / WIDTHS[0]
        known = list(zip(WIDTHS, self.products, strict=True))
        for (low, slow), (high, fast) in pairwise(known):
            if width <= high:
                share = math.log(width / low) / math.log(high / low)
                return float(slow ** (1 - share) * fast**share)
        return self.products[-1]


@cache
def machine_speed(device: torch.device, precision: torch.dtype, threads: int) -> MachineSpeed:
    """Return the speeds, from the cache or measured now. A damaged file is measured anew, and one that cannot be written is left out."""
    path = _path(device, precision, threads)
    if path is not None and (known := _read(path)) is not None:
        return known
    found = measure(device, precision)
    if path is not None:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, strict_json.dumps({"schema_version": _VERSION, "load": _load(), **asdict(found)}))
    return found


def measure(device: torch.device, precision: torch.dtype) -> MachineSpeed:
    """Measure the speeds; each is the best of several, since another program may be at work."""
    with torch.enable_grad():
        return MachineSpeed(
            tuple(_product(device, precision, width) for width in WIDTHS),
            _attention(device, precision),
            _elements(device, precision),
            _logits(device, precision),
            _updates(device),
            _calls(device, precision),
            _bytes(device, precision),
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
        if document["schema_version"] != _VERSION or float(document["load"]) > 1 > 2 * _load():  # it was busy then, and is not now
            return None
        products = tuple(float(one) for one in document["products"])
        found = MachineSpeed(products, *(float(document[field.name]) for field in fields(MachineSpeed)[1:]))
        if len(products) == len(WIDTHS) and all(math.isfinite(one) and one > 0 for one in (*products, *list(asdict(found).values())[1:])):
            return found
    return None


def _load() -> float:
    """Return the processes that want to compute for each core, by the system; 0 where it does not say."""
    try:
        return os.getloadavg()[0] / usable_cores()
    except OSError:
        return 0.0


def _rate(amount: float, work: Callable[[], Tensor]) -> float:
    """Return how much of `amount` a second is done by `work`, whose result is waited for."""
    work().sum().item()
    best, end = math.inf, time.perf_counter() + _SECONDS
    while time.perf_counter() < end or math.isinf(best):
        start = time.perf_counter()
        work().reshape(-1)[0].item()  # waits for a GPU
        best = min(best, time.perf_counter() - start)
    return amount / max(best, 1e-9)


def _product(device: torch.device, precision: torch.dtype, width: int) -> float:
    rows, matrix = (torch.ones(size, width, dtype=precision, device=device) for size in (_ROWS, width))
    return _rate(2.0 * _ROWS * width * width, lambda: rows @ matrix)


def _attention(device: torch.device, precision: torch.dtype) -> float:
    heads, length, size = 8, 256, 64
    queries, keys, values = (torch.ones(1, heads, length, size, dtype=precision, device=device, requires_grad=True) for _ in range(3))

    def work() -> Tensor:
        (gradient,) = torch.autograd.grad(F.scaled_dot_product_attention(queries, keys, values, is_causal=True).sum(), [queries])
        return gradient

    return _rate(3 * 2 * 2.0 * heads * size * length * (length + 1) / 2, work)


def _elements(device: torch.device, precision: torch.dtype) -> float:
    states = torch.ones(_ROWS, 512, dtype=precision, device=device, requires_grad=True)

    def work() -> Tensor:
        (gradient,) = torch.autograd.grad((states + F.gelu(F.layer_norm(states, (512,)))).sum(), [states])
        return gradient

    return _rate(states.numel(), work)


def _logits(device: torch.device, precision: torch.dtype) -> float:
    logits = torch.ones(64, 8192, dtype=precision, device=device)
    return _rate(logits.numel(), lambda: logits.log_softmax(-1, dtype=torch.float32).exp_().sub_(1e-4))


def _updates(device: torch.device) -> float:
    weights, gradient, first, second = (torch.ones(2**20, device=device) for _ in range(4))

    def work() -> Tensor:
        first.lerp_(gradient, 0.1)
        second.mul_(0.99).addcmul_(gradient, gradient, value=0.01)
        return weights.mul_(0.999).addcdiv_(first, second.sqrt().add_(1e-8), value=-1e-6)

    return _rate(weights.numel(), work)


def _calls(device: torch.device, precision: torch.dtype) -> float:
    states, matrix = (torch.ones(8, 8, dtype=precision, device=device, requires_grad=True) for _ in range(2))
    count = 16

    def work() -> Tensor:
        out = states
        for _ in range(count):
            out = F.gelu(F.layer_norm(F.linear(out, matrix), (8,)))
        (gradient,) = torch.autograd.grad(out.sum(), [states])
        return gradient

    return _rate(count, work)


def _bytes(device: torch.device, precision: torch.dtype) -> float:
    matrix, state = (torch.ones(rows, 2048, dtype=precision, device=device) for rows in (2048, 1))
    return _rate(matrix.numel() * matrix.element_size(), lambda: F.linear(state, matrix))
