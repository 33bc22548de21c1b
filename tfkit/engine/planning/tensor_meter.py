"""The bytes of all tensors of this process while it computes, and those that its collectives send; also of tensors without memory.

With `fake`, tensors of floats are PyTorch's fake ones, which have shapes and no memory, so that a step of any model can be taken on any
machine. Whole numbers and truth values, which decide shapes, are computed for real.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Self
from weakref import ref

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed._tools.fake_collectives import CollectiveOp, collective_ops, sync_ops
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

_DEVICE = torch.ops.prim.device.default
_INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten._index_put_impl_.default, torch.ops.aten.index_put.default}
_ITEM = torch.ops.aten._local_scalar_dense.default


class TensorMeter(TorchDispatchMode):
    """Within the context, `live` is the bytes of the storages that were seen and are not freed, `peak` their most since `mark`."""

    def __init__(self, *, fake: bool = False):
        super().__init__()  # type: ignore[no-untyped-call]
        self._fake = FakeTensorMode(allow_non_fake_inputs=True) if fake else None
        self._storages: dict[int, _Storage] = {}
        self.live = self.peak = 0
        self.sent: Counter[str] = Counter()  # by kind of collective, as rings send them

    def __enter__(self) -> Self:
        """Count from here on; storages that are resized, as FSDP frees gathered weights, are counted again."""
        super().__enter__()  # type: ignore[no-untyped-call]
        self._resize = torch.UntypedStorage.resize_
        torch.UntypedStorage.resize_ = self._resized  # type: ignore[assignment, method-assign]
        return self

    def __exit__(self, *error: object) -> None:
        """Count no more."""
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def mark(self) -> int:
        """Return the peak since the last mark, and start again."""
        found, self.peak = self.peak, self.live
        return found

    def see(self, tensor: Tensor) -> None:
        """Count a tensor that there was before; one that was counted is not counted again."""
        if is_traceable_wrapper_subclass(tensor):
            tensor = tensor.to_local()  # a DTensor
        self._count(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what it makes and sends."""
        if func is _DEVICE:  # half of all operations on fake tensors
            return getattr(args[0], "fake_device", None) or args[0].device
        if any(issubclass(kind, Tensor) and hasattr(kind, "__tensor_flatten__") for kind in types):
            return NotImplemented  # such as DTensor, whose parts come here again
        kwargs = kwargs or {}
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        has_fake = any(isinstance(one, FakeTensor) for one in tensors)
        if func is _ITEM and has_fake:  # a number that nobody knows: a loss, a norm
            return torch.ones((), dtype=tensors[0].dtype).item()
        if self._fake is not None and (has_fake or (not tensors and _makes_floats(func, kwargs))):
            if func in _INDEXING:  # a mask, which is known, selects so many
                args = (args[0], _places(args[1]), *args[2:])
            with self._fake:
                result = func(*args, **kwargs)
        else:
            result = func(*args, **kwargs)
        if func in collective_ops and func not in sync_ops:
            self._count_traffic(func, result, args)
        for one in tree_leaves(result):
            if isinstance(one, Tensor) and not is_traceable_wrapper_subclass(one) and self._is_counted(one):
                self._count(one.untyped_storage())
        return result

    def _is_counted(self, tensor: Tensor) -> bool:
        """Whether a tensor is one of those that are measured: beside real ones, shapes alone are none."""
        return self._fake is not None or not (tensor.is_meta or isinstance(tensor, FakeTensor))

    def _count(self, storage: torch.UntypedStorage) -> None:
        known = self._storages.get(storage._cdata)
        if known is None:
            known = self._storages[storage._cdata] = _Storage(storage, self._freed)
        size = storage.nbytes()
        self.live += size - known.size
        known.size = size
        self.peak = max(self.peak, self.live)

    def _freed(self, address: int) -> None:
        self.live -= self._storages.pop(address).size

    @property
    def _resized(self) -> Callable[[torch.UntypedStorage, int], torch.UntypedStorage]:
        def resize_(storage: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
            self._resize(storage, size)
            self._count(storage)
            return storage

        return resize_

    def _count_traffic(self, func: Any, result: Any, args: Any) -> None:
        ranks = CollectiveOp.get_process_group(func, args).size()
        size = max(_bytes_of(one) for one in (*args[:2], result))  # of the whole, which is an input, an output, or both
        name = func.name().partition("::")[2].strip("_")
        if "scatter" in name or name == "reduce":  # of gloo a reduction to each rank in turn (parallel/in_place.py)
            kind = "reduce-scatter"
        else:
            kind = "all-reduce" if "reduce" in name else "all-gather"
        self.sent[kind] += round((2 if kind == "all-reduce" else 1) * (ranks - 1) / ranks * size)


class _Storage:
    """A storage that is not freed; it calls `freed` when it is."""

    def __init__(self, storage: torch.UntypedStorage, freed: Callable[[int], None]):
        self.size, address = 0, storage._cdata
        self._alive = ref(storage, lambda _: freed(address))


def _bytes_of(tensors: Any) -> int:
    return sum(one.numel() * one.element_size() for one in tree_leaves(tensors) if isinstance(one, Tensor))


def _makes_floats(func: Any, kwargs: Any) -> bool:
    """Whether an operation without tensors among its arguments makes one of floats."""
    dtype = kwargs.get("dtype")
    return "arange" not in func.name() if dtype is None else bool(dtype.is_floating_point)


def _places(indices: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Return the indices with the places of a mask's true values in place of the mask."""
    found: list[Tensor | None] = []
    for one in indices:
        found += one.nonzero().unbind(1) if one is not None and one.dtype == torch.bool and not isinstance(one, FakeTensor) else [one]
    return found
