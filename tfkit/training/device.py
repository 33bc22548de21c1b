"""The machine that trains: its device, precision, determinism and memory."""

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tfkit.errors import MachineError, UsageError, argument
from tfkit.model.experts import Experts
from tfkit.model.stack import Stack
from tfkit.model.transformer import Transformer

_M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # constants of glibc's malloc.h
KEPT_BYTES = 1 << 30  # freed memory up to this size is kept for the next tensors, not returned to the kernel


def pick_device(name: str | None) -> torch.device:
    """Return the device of this name; for None or auto, the best available one: cuda, else mps, else cpu.

    Raises UsageError if PyTorch does not know the name, and MachineError if this machine or this build of PyTorch lacks the device.
    """
    if name in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    device = named_device(str(name))
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}.get(device.type, False)
    if not available or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise MachineError(
            f"{argument('device', name)}: this machine or this build of PyTorch has no such device; leave {argument('device')} out "
            "to use an available one"
        )
    return device


def named_device(name: str | torch.device) -> torch.device:
    """Return the device of this name, whether or not this machine has it. Raises UsageError if PyTorch does not know the name."""
    try:
        return torch.device(name)
    except RuntimeError:
        raise UsageError(f"{argument('device', name)}: not a device; use cpu, cuda, cuda:0, mps or auto") from None


def use_device(device: torch.device) -> None:
    """Make a CUDA GPU the current CUDA device of this process, which NCCL uses; do nothing for other devices."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 products are faster than fp32 ones on this device; hardware without bf16 instructions emulates them slowly."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))
    return False  # on mps, bf16 is not faster than fp32


def pick_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Return the type in which the model computes. `wanted`: bf16, fp32 or auto (bf16 if `has_bf16(device)`, else fp32)."""
    return torch.bfloat16 if wanted == "bf16" or (wanted == "auto" and has_bf16(device)) else torch.float32


def move(model: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> None:
    """Move a model to a device, and convert it to `dtype` if given. Parameters on the meta device stay there; `Module.to` would raise."""

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(tensor.device if tensor.is_meta else device, dtype if tensor.is_floating_point() else None)

    def is_moved(tensor: Tensor) -> bool:
        return (tensor.is_meta or tensor.device == device) and (dtype in (None, tensor.dtype) or not tensor.is_floating_point())

    if not all(map(is_moved, (*model.parameters(), *model.buffers()))):  # `_apply` fails on PyTorch's fake tensors, which need no move
        model._apply(moved)


def make_deterministic(device: torch.device) -> None:
    """Make the same seed give the same bits, on one machine with the same number of threads.

    On a CPU and on CUDA, an operation without a deterministic algorithm is an error: with only a warning, as on mps, PyTorch would not
    choose deterministic kernels for attention.
    """
    if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    set_determinism(2 if device.type in ("cpu", "cuda") else 1)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # not needed: no unwritten memory is read
    torch.backends.cudnn.benchmark = False


def set_determinism(mode: int) -> None:
    """Allow (0), warn of (1) or refuse (2) operations without a deterministic algorithm."""
    os.environ["TORCHINDUCTOR_DETERMINISTIC"] = str(int(mode > 0))  # torch._inductor reads the variable when it is imported
    if "torch._inductor" in sys.modules:
        torch.use_deterministic_algorithms(mode > 0, warn_only=mode == 1)
    else:  # use_deterministic_algorithms would import the compiler, which takes a second
        torch.set_deterministic_debug_mode(mode)


def keep_freed_memory() -> None:
    """Make the C library keep freed memory (Linux, glibc); otherwise Linux maps and zeroes memory for large tensors in every step.

    Measured on two cores: RMSNorm forward and backward takes 7 ms instead of 26, a step of a small Llama 0.9 s instead of 1.05.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library lacks `mallopt`
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


def prepare_steps(device: torch.device) -> None:
    """Prepare this process for steps on `device`: make them deterministic, and keep freed memory for the next step."""
    make_deterministic(device)
    keep_freed_memory()


def compile_model(model: Transformer, *, by_block: bool) -> None:
    """Compile each stack (encoder, decoder) or, with `by_block`, each block by itself, for ranks that gather sharded weights by block.

    A mixture of experts, whose shapes change with every batch, runs uncompiled.
    """
    for module in model.modules():
        if isinstance(module, Experts):
            module.forward = torch.compiler.disable(module.forward)  # type: ignore[method-assign]
    for module in _stacks_and_blocks(model):
        if isinstance(module, Stack) != by_block:
            module.compile()


@contextlib.contextmanager
def eager(model: Transformer) -> Iterator[None]:
    """A context in which a compiled model runs uncompiled, for batches of many shapes: each new shape would be compiled."""
    modules = _stacks_and_blocks(model)
    compiled = [module._compiled_call_impl for module in modules]
    for module in modules:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, call in zip(modules, compiled, strict=True):
            module._compiled_call_impl = call


def _stacks_and_blocks(model: Transformer) -> list[nn.Module]:
    return [module for stack in model.stacks for module in (stack, *stack.blocks)]


def seed_draws(device: torch.device, seed: int) -> None:
    """Seed the random generators of this device and of the CPU, faster than torch.manual_seed, which also seeds those of other devices."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def memory_bytes(device: torch.device) -> int:
    """Return the peak memory so far in bytes: allocated on a CUDA GPU; for other devices, resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
