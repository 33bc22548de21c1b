"""A simulated device: tensors that are "elsewhere" and compute on the CPU, so that a mistake with devices shows without a GPU.

An operation on tensors of both places is an error, as on CUDA, except copies, indices, and tensors without dimensions. So is float64
elsewhere, which Apple's GPUs do not have. The device is called `meta`, the only one of PyTorch besides the CPU that every build can
differentiate on; while the mode is on, a factory for it makes a tensor with values.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

ELSEWHERE = torch.device("meta")
_MIXED = (torch.ops.aten.copy_, torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)


class DeviceError(Exception):
    """An error that a GPU would raise."""


class _Elsewhere(torch.Tensor):
    """A tensor of the pretended device, with its values on the CPU."""

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> "_Elsewhere":
        shape, strides = values.shape, values.stride()
        return torch.Tensor._make_wrapper_subclass(cls, shape, strides=strides, dtype=values.dtype, device=ELSEWHERE)

    def __init__(self, values: torch.Tensor):
        self.values_on_cpu = values

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.tolist:  # PyTorch refuses it for a subclass
            return args[0].values_on_cpu.tolist()
        if func is torch.Tensor.numpy:
            raise DeviceError("numpy of a tensor that is not on the CPU")
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class PretendedDevice(TorchDispatchMode):
    """A mode in which `ELSEWHERE` is a device like any other; `operations` counts what was computed there."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self._literals = _Literals()

    def __enter__(self) -> "PretendedDevice":
        self._literals.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._literals.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = _compute(func, args, kwargs or {})
        self.operations += isinstance(out, _Elsewhere)
        return out


@contextmanager
def pretended() -> Iterator[torch.device]:
    """Enter the mode, as a block that gives the device."""
    with PretendedDevice():
        yield ELSEWHERE


class _Literals(TorchFunctionMode):
    """A mode that makes tensors of Python's numbers on the CPU first, since a dispatch mode does not see them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and kwargs.get("device") == ELSEWHERE:
            del kwargs["device"]
            return torch.tensor(*args, **kwargs).to(ELSEWHERE)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[1], list):
            args = args[0], torch.tensor(args[1], dtype=torch.long), *args[2:]
        return func(*args, **kwargs)


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    elsewhere = any(isinstance(one, _Elsewhere) for one in tensors)
    on_cpu = [tuple(one.shape) for one in tensors if not isinstance(one, _Elsewhere) and one.dim()]
    if elsewhere and on_cpu and func.overloadpacket not in _MIXED:
        raise DeviceError(f"{func}: a tensor of the CPU {on_cpu[0]} among those of the device")
    wanted = kwargs.get("device")
    kwargs = kwargs if wanted is None else kwargs | {"device": torch.device("cpu")}
    out = func(*tree_map(_values, args), **tree_map(_values, kwargs))
    if not (elsewhere if wanted is None else torch.device(wanted) == ELSEWHERE):
        return out
    known = {id(one.values_on_cpu): one for one in tensors if isinstance(one, _Elsewhere)}  # an operation in place returns these

    def move(one: Any) -> Any:
        return one if not isinstance(one, torch.Tensor) else known[id(one)] if id(one) in known else _moved(func, one)

    return tree_map(move, out)


def _values(one: Any) -> Any:
    return one.values_on_cpu if isinstance(one, _Elsewhere) else one


def _moved(func: Any, values: torch.Tensor) -> _Elsewhere:
    if values.dtype == torch.float64:
        raise DeviceError(f"{func}: float64, which not every device has")
    return _Elsewhere(values)
