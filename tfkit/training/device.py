"""The machine that trains: its device, precision, determinism and peak speed."""

import contextlib
import ctypes
import os
import re
import resource
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from tfkit.errors import MachineError, UsageError
from tfkit.model.stack import Stack
from tfkit.model.transformer import Transformer

# Dense bf16 peak in FLOP/s by NVIDIA's data sheets, by words of the device's name; the first match counts.
_GPU_PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A40": 150e12,
    "A30": 165e12,
    "A10": 125e12,
    "A10G": 70e12,
    "A6000": 155e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 3090": 71e12,
    "RTX 4090": 165e12,
}
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT_BYTES = 1 << 30
_FREE_BYTES, _NEAR_PEAK = 1 << 26, 0.9
_LARGE_BYTES = 1 << 25  # from here on mapping memory takes less time than what is computed with it


def pick_device(name: str | None) -> torch.device:
    """Return the named device, or the best one available: cuda, then mps, then cpu. Raises MachineError if it is not available."""
    if name in (None, "auto"):
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    try:
        device = torch.device(str(name))
    except RuntimeError:
        raise UsageError(f"--device {name}: not a device; use cpu, cuda, cuda:0, mps or auto") from None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}.get(device.type, False)
    if not available or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise MachineError(
            f"--device {name}: this machine or this build of PyTorch has no such device; leave --device out to use what is there"
        )
    return device


def use_device(device: torch.device) -> None:
    """Let this process compute on the device where none is named, as NCCL does; there is nothing to be set for a CPU."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 products run in hardware: elsewhere they are emulated, and slower than fp32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))
    return False  # mps: its bf16 is not faster than fp32


def pick_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Return the working type for a recipe's precision: auto is bf16 if the hardware supports it."""
    if wanted == "auto":
        return torch.bfloat16 if has_bf16(device) else torch.float32
    return torch.bfloat16 if wanted == "bf16" else torch.float32


def move(model: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> None:
    """Move a model to a device, and into a type, where one is given; blocks without memory stay where they are, which `to` would refuse."""

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(tensor.device if tensor.is_meta else device, dtype if tensor.is_floating_point() else None)

    model._apply(moved)


def make_deterministic(device: torch.device) -> None:
    """Make the same seed give the same bits, on one machine with the same number of threads.

    On CUDA an operation without a deterministic algorithm is an error: if it were a warning, the kernels of attention would stay random.
    """
    if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True, warn_only=device.type not in ("cpu", "cuda"))
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # no memory is read before it is written
    torch.backends.cudnn.benchmark = False


def is_nondeterministic(error: RuntimeError) -> bool:
    """Whether PyTorch refused an operation that has no deterministic algorithm on this device."""
    return "does not have a deterministic implementation" in str(error)


def allow_nondeterministic() -> None:
    """Allow such operations, with a warning from PyTorch."""
    torch.use_deterministic_algorithms(True, warn_only=True)


def keep_freed_memory() -> None:
    """Make the C library keep freed memory (Linux, glibc); else the kernel maps and zeroes the large tensors of every step again.

    Measured on two cores: RMSNorm forward and backward 7 ms instead of 26, a small Llama's step 0.9 s instead of 1.05.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


class FreedMemory:
    """The freed memory that the C library keeps, where that is to be little (Linux, glibc): for ranks that share weights. Whole tables and
    their gradients come and go there, beside parts that stay, so that much of what is free fits nothing.
    """

    def __init__(self, large: int):
        """Give everything back, and from now on tensors of at least `large` bytes at once when they are freed."""
        self._libc: ctypes.CDLL | None = None
        self._most_used = 0
        if sys.platform != "linux":
            return
        with contextlib.suppress(OSError, AttributeError):  # another C library, or one without `mallinfo2`
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_MMAP_THRESHOLD, min(max(large, _LARGE_BYTES), _KEPT_BYTES))
            libc.mallinfo2.restype = _MallocInfo
            libc.malloc_trim(0)
            self._libc = libc
            self._beside = self._resident() - self._used()  # of other libraries

    def give_back(self) -> None:
        """Give back what is free where that is much, while about as much is in use as ever, so that the peak of both together is lower.

        At other times the next tensors are better made in what is free: its pages need not be zeroed again.
        """
        if self._libc is None:
            return
        used = self._used()
        self._most_used = max(self._most_used, used)
        if used > _NEAR_PEAK * self._most_used and self._resident() - used - self._beside > _FREE_BYTES:
            self._libc.malloc_trim(0)

    def _used(self) -> int:
        """Return the bytes that the C library has given away."""
        assert self._libc is not None
        info = self._libc.mallinfo2()
        return int(info.uordblks) + int(info.hblkhd)

    def _resident(self) -> int:
        resident, shared = map(int, Path("/proc/self/statm").read_text(encoding="ascii").split()[1:3])
        return (resident - shared) * resource.getpagesize()


class _MallocInfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def compile_model(model: Transformer, *, by_block: bool) -> None:
    """Let the compiler make what runs of each stack; `by_block`: of each block, between which ranks gather the weights that they share."""
    for module in _compiled(model):
        if isinstance(module, Stack) != by_block:
            module.compile()


@contextlib.contextmanager
def eager(model: Transformer) -> Iterator[None]:
    """A context in which a compiled model runs uncompiled, since shapes that change with every batch would be compiled again and again."""
    modules = _compiled(model)
    compiled = [module._compiled_call_impl for module in modules]
    for module in modules:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, call in zip(modules, compiled, strict=True):
            module._compiled_call_impl = call


def _compiled(model: Transformer) -> list[nn.Module]:
    return [module for stack in model.stacks for module in (stack, *stack.blocks)]


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Return the peak FLOP/s of the device: from a data sheet for known GPUs, else measured."""
    if device.type == "cuda":
        return peak_of_gpu(torch.cuda.get_device_name(device)) if dtype == torch.bfloat16 else None
    return matrix_speed(device, dtype)


@cache
def matrix_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the FLOP/s of a large matrix product of this type on the device, in a tenth of a second: the best of all products."""
    a = torch.ones(1024, 1024, dtype=dtype, device=device)
    best = float("inf")
    end = time.perf_counter() + 0.1
    while time.perf_counter() < end:
        start = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for a GPU
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best


def seed_draws(device: torch.device, seed: int) -> None:
    """Seed the random numbers of this device and of the CPU; torch.manual_seed takes milliseconds where there is no GPU."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def peak_of_gpu(name: str) -> float | None:
    """Return a data sheet's dense bf16 peak by the driver's name of the GPU, such as "NVIDIA H100 80GB HBM3"; None if unknown."""
    found = (peak for part, peak in _GPU_PEAKS.items() if re.search(rf"\b{part}\b", name))
    return None if "Laptop" in name else next(found, None)  # the same name for another chip


def memory_bytes(device: torch.device) -> int:
    """Return the peak memory so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
