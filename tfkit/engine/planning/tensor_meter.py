"""Count the bytes of all live tensors of a process, and the bytes that its collectives send.

If `fake` is set, new floating-point tensors become PyTorch's fake tensors, which have a shape but no memory, so that a step of any model
can be simulated on any machine. Tensors of integers and booleans are still computed, because the shapes of other tensors depend on them.
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
    """Context that counts bytes of tensor storages (`live`: not yet freed; `peak`: the maximum of `live` since `mark()`) and bytes sent."""

    def __init__(self, *, fake: bool = False):
        super().__init__()  # type: ignore[no-untyped-call]
        self._fake = FakeTensorMode(allow_non_fake_inputs=True) if fake else None
        self._storages: dict[int, _Storage] = {}
        self.live = self.peak = 0
        self.sent: Counter[str] = Counter()  # bytes sent, by kind of collective, assuming ring algorithms

    def __enter__(self) -> Self:
        """Start counting. The resizing of storages is counted too, since FSDP frees gathered weights by resizing their storage to 0."""
        super().__enter__()  # type: ignore[no-untyped-call]
        self._resize = torch.UntypedStorage.resize_
        torch.UntypedStorage.resize_ = self._resized  # type: ignore[assignment, method-assign]
        return self

    def __exit__(self, *error: object) -> None:
        """Stop counting."""
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def mark(self) -> int:
        """Return the peak since the last mark, and start the next peak from the bytes that are live now."""
        peak, self.peak = self.peak, self.live
        return peak

    def add(self, tensor: Tensor) -> None:
        """Count an existing tensor, unless its storage is counted already."""
        if is_traceable_wrapper_subclass(tensor):
            tensor = tensor.to_local()  # a DTensor
        self._count(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count the tensors that it creates and the bytes that it sends."""
        if func is _DEVICE:  # a shortcut: half of all operations on fake tensors only ask for the device
            return getattr(args[0], "fake_device", None) or args[0].device
        if any(issubclass(kind, Tensor) and hasattr(kind, "__tensor_flatten__") for kind in types):
            return NotImplemented  # PyTorch unwraps a DTensor, and dispatches the operation on its local tensor
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        has_fake = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        if func is _ITEM and has_fake:  # a fake loss or norm has no value: return 1
            return torch.ones((), dtype=tensors[0].dtype).item()
        if self._fake is not None and (has_fake or (not tensors and _makes_floats(func, kwargs))):
            if func in _INDEXING:  # the size of the result depends on the values of a mask, which are real
                args = (args[0], _without_masks(args[1]), *args[2:])
            with self._fake:
                result = func(*args, **kwargs)
        else:
            result = func(*args, **kwargs)
        if func in collective_ops and func not in sync_ops:
            self._count_traffic(func, result, args)
        created = (leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and not is_traceable_wrapper_subclass(leaf))
        for tensor in created:
            if self._fake is not None or not (tensor.is_meta or isinstance(tensor, FakeTensor)):  # without `fake`, these have no memory
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        counted = self._storages.get(storage._cdata)
        if counted is None:
            counted = self._storages[storage._cdata] = _Storage(storage, self._on_free)
        size = storage.nbytes()
        self.live += size - counted.size
        counted.size = size
        self.peak = max(self.peak, self.live)

    def _on_free(self, address: int) -> None:
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
        size = max(_bytes_of(tensors) for tensors in (*args[:2], result))  # bytes of the unsharded tensor, the input or the output
        name = func.name().partition("::")[2].strip("_")
        if "scatter" in name:
            kind = "reduce-scatter"
        else:
            kind = "all-reduce" if "reduce" in name else "all-gather"
        self.sent[kind] += round((2 if kind == "all-reduce" else 1) * (ranks - 1) / ranks * size)


class _Storage:
    """The counted size of a live storage; when the storage is freed, `on_free` is called with its address."""

    def __init__(self, storage: torch.UntypedStorage, on_free: Callable[[int], None]):
        self.size, address = 0, storage._cdata
        self._reference = ref(storage, lambda _: on_free(address))


def _bytes_of(tensors: Any) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor))


def _makes_floats(func: Any, kwargs: Any) -> bool:
    """Whether an operation without tensor arguments creates a floating-point tensor."""
    dtype = kwargs.get("dtype")
    return "arange" not in func.name() if dtype is None else bool(dtype.is_floating_point)


def _without_masks(indices: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Return the indices with each mask replaced by the positions of its true values."""
    integers: list[Tensor | None] = []
    for index in indices:
        is_mask = index is not None and index.dtype == torch.bool and not isinstance(index, FakeTensor)
        integers += index.nonzero().unbind(1) if index is not None and is_mask else [index]
    return integers
