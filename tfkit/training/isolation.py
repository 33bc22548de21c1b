"""The state of a process that a call of tfkit changes and restores: threads, seeds, determinism, warnings, environment, exception hook."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_AUTOCAST_DEVICES = ("cpu", "cuda", "mps")


@contextmanager
def isolated() -> Iterator[None]:
    """Restore, after the block, all that a call of tfkit changes: torch's settings and seeds, warning filters, os.environ, sys.excepthook.

    Within the block, whatever the caller has set, gradients are enabled, autocast is off, and new tensors are float32 on the CPU.
    """
    import torch

    from tfkit.training.device import set_determinism

    environment, deterministic = dict(os.environ), torch.utils.deterministic

    def restore_environment() -> None:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)

    with warnings.catch_warnings(), ExitStack() as stack:
        stack.callback(restore_environment)
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        stack.callback(torch.random.set_rng_state, torch.random.get_rng_state())
        if torch.cuda.is_available():
            stack.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        stack.callback(set_determinism, torch.get_deterministic_debug_mode())  # 0: off, 1: warn, 2: raise
        stack.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
        stack.callback(setattr, deterministic, "fill_uninitialized_memory", deterministic.fill_uninitialized_memory)  # type: ignore[attr-defined]
        # torch.distributed sets an exception hook of its own, which writes the rank in front of each line of a traceback.
        stack.callback(setattr, sys, "excepthook", sys.excepthook)
        stack.enter_context(torch.inference_mode(False))  # this enables gradients, too
        for device in filter(torch.is_autocast_enabled, _AUTOCAST_DEVICES):
            stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        yield
