"""The one place that uses names within PyTorch's fully_shard: whole gradients before they are added up, and the classes of its
collectives. No public API gives them. With a PyTorch that lacks one of these names, importing this module raises MachineError.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from tfkit.errors import MachineError

TESTED = "2.13"  # the PyTorch whose names these are


def _unknown(names: Iterable[str]) -> MachineError:
    major, minor = map(int, TESTED.split("."))
    return MachineError(
        f"parallel.shard: ranks that share weights need names of PyTorch {TESTED} that {torch.__version__} lacks ({', '.join(names)}): "
        f"install 'torch>={TESTED},<{major}.{minor + 1}', or give 1"
    )


try:
    from torch.distributed.fsdp._fully_shard._fsdp_api import AllGather, ReduceScatter
    from torch.distributed.fsdp._fully_shard._fsdp_param import FSDPParam
    from torch.distributed.fsdp._fully_shard._fsdp_state import FSDPState
except ImportError as error:
    raise _unknown([str(error)]) from error

__all__ = ["AllGather", "ReduceScatter", "WholeParameter", "has_begun", "require_names", "whole_parameters"]


def require_names() -> None:
    """Raise MachineError, with what to install, where PyTorch has no longer what this module reads."""
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


class WholeParameter:
    """A parameter of which each rank has a part, as it is gathered for a forward and a backward pass."""

    def __init__(self, inner: FSDPParam):
        self._inner = inner

    @property
    def part(self) -> nn.Parameter:
        """The parameter that the model has between passes."""
        return self._inner.sharded_param

    def take_gradient(self) -> Tensor | None:
        """Return the whole gradient of this rank's micro-batches, and drop it; in fp32 if they were several, or are to be."""
        accumulated, unrounded = self._inner.unsharded_accumulated_grad, self._gathered.grad if self._gathered is not None else None
        self.drop_gradient()
        return unrounded if accumulated is None else accumulated

    def drop_gradient(self) -> None:
        """Drop the whole gradient; `reset_iter_state` of PyTorch 2.13 leaves it."""
        self._inner.unsharded_accumulated_grad = None
        if self._gathered is not None:
            self._gathered.grad = None

    def free_once_gradient_is_there(self) -> bool:
        """Let the gathered numbers be freed whenever the whole gradient is there, which nothing of a backward pass reads them after.

        Return whether that holds from now on; it does not for a parameter that is frozen now.
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


def whole_parameters(module: nn.Module) -> list[WholeParameter]:
    """Return the parameters that fully_shard gathers for this module itself, without those within it that have groups of their own."""
    state: Callable[[], FSDPState] = module._get_fsdp_state  # type: ignore[assignment]
    return [WholeParameter(one) for group in state()._fsdp_param_groups for one in group.fsdp_params]


def has_begun(model: nn.Module) -> bool:
    """Whether there was a forward of a model, so that its state may be reset."""
    state: Callable[[], FSDPState] = model._get_fsdp_state  # type: ignore[assignment]
    return state()._is_root is not None
