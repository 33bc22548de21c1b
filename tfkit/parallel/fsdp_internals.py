"""The only module that uses private names of PyTorch's fully_shard: unsharded gradients before they are reduced, and the interfaces of its
collectives, for which there is no public API. With a PyTorch that lacks one of these names, importing this module raises MachineError.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from tfkit.errors import MachineError

TESTED = "2.13"  # the version of PyTorch that has these names


def _unknown(names: Iterable[str]) -> MachineError:
    major, minor = map(int, TESTED.split("."))
    return MachineError(
        f"parallel.shard: ranks with sharded weights need names of PyTorch {TESTED} that {torch.__version__} lacks ({', '.join(names)}): "
        f"install 'torch>={TESTED},<{major}.{minor + 1}', or give 1"
    )


try:
    from torch.distributed.fsdp._fully_shard._fsdp_api import AllGather, ReduceScatter
    from torch.distributed.fsdp._fully_shard._fsdp_param import FSDPParam
    from torch.distributed.fsdp._fully_shard._fsdp_state import FSDPState
except ImportError as error:
    raise _unknown([str(error)]) from error

__all__ = ["AllGather", "ReduceScatter", "UnshardedParameter", "has_begun", "require_names", "unsharded_parameters"]


def require_names() -> None:
    """Raise MachineError, saying what to install, if PyTorch lacks a name that this module uses."""
    here = {
        FSDPModule: {*dir(FSDPModule)},
        FSDPParam: {*dir(FSDPParam), *FSDPParam.__annotations__},
        FSDPState: {*vars(FSDPState())},
    }
    needed = {
        FSDPModule: ("_get_fsdp_state", "reset_iter_state", "set_custom_all_gather", "set_custom_reduce_scatter"),
        FSDPParam: ("sharded_param", "_unsharded_param", "unsharded_accumulated_grad", "free_unsharded_param"),
        FSDPState: ("_fsdp_param_groups", "_is_root"),
    }
    if missing := [f"{owner.__name__}.{name}" for owner, names in needed.items() for name in names if name not in here[owner]]:
        raise _unknown(missing)


require_names()


class UnshardedParameter:
    """A sharded parameter, in the form in which it is gathered for a forward and a backward pass."""

    def __init__(self, inner: FSDPParam):
        self._inner = inner

    @property
    def sharded(self) -> nn.Parameter:
        """The parameter that the model has between passes: a DTensor."""
        return self._inner.sharded_param

    def take_gradient(self) -> Tensor | None:
        """Remove and return this rank's unsharded gradient: in fp32 if it is accumulated over micro-batches, else in the working type."""
        accumulated, unrounded = self._inner.unsharded_accumulated_grad, self._gathered.grad if self._gathered is not None else None
        self.drop_gradient()
        return unrounded if accumulated is None else accumulated

    def drop_gradient(self) -> None:
        """Drop the unsharded gradient, which `reset_iter_state` of PyTorch 2.13 keeps."""
        self._inner.unsharded_accumulated_grad = None
        if self._gathered is not None:
            self._gathered.grad = None

    def free_after_gradient(self) -> bool:
        """Free the gathered parameter whenever its gradient is complete: the rest of the backward pass does not read it.

        Return whether this is in effect from now on; it is not for a parameter that is frozen now.
        """
        if self._gathered is None or not self._gathered.requires_grad:
            return False
        self._gathered.register_post_accumulate_grad_hook(self._free)
        return True

    def _free(self, _: Tensor) -> None:
        self._inner.free_unsharded_param()

    @property
    def _gathered(self) -> nn.Parameter | None:
        """None before the first pass."""
        return getattr(self._inner, "_unsharded_param", None)


def unsharded_parameters(module: nn.Module) -> list[UnshardedParameter]:
    """Return the parameters in the module's own FSDP group, without those of submodules that have groups of their own."""
    state: Callable[[], FSDPState] = module._get_fsdp_state  # type: ignore[assignment]
    return [UnshardedParameter(one) for group in state()._fsdp_param_groups for one in group.fsdp_params]


def has_begun(model: nn.Module) -> bool:
    """Whether the model has run a forward pass, so that its state can be reset."""
    state: Callable[[], FSDPState] = model._get_fsdp_state  # type: ignore[assignment]
    return state()._is_root is not None
