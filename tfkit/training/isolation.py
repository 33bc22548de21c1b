"""The state of a process that a call of tfkit changes and restores: threads, seeds, determinism, warnings, environment, exception hook."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_AUTOCAST_DEVICES = ("cpu", "cuda", "mps")


@contextmanager
def isolated() -> Iterator[None]:
    """Restore, after the block, the state that a call of tfkit changes: of torch, of warnings, os.environ and sys.excepthook.

    Within the block, whatever the caller has set, gradients are enabled, autocast is off, and new tensors are float32 on the CPU.
    """
    import torch

    from tfkit.training.device import set_determinism

    threads, state, environment = torch.get_num_threads(), torch.random.get_rng_state(), dict(os.environ)
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    determinism = torch.get_deterministic_debug_mode()  # 0: off, 1: warn, 2: raise
    benchmark, filled = torch.backends.cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    hook = sys.excepthook  # torch.distributed sets its own, which writes the rank in front of each line of a traceback
    with warnings.catch_warnings(), _usual_tensors():
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.random.set_rng_state(state)
            if gpus:
                torch.cuda.set_rng_state_all(gpus)
            set_determinism(determinism)
            torch.backends.cudnn.benchmark = benchmark
            torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)
            sys.excepthook = hook


@contextmanager
def _usual_tensors() -> Iterator[None]:
    """Compute with gradients and without autocast in the block, with new tensors in float32 on the CPU."""
    import torch

    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))  # this enables gradients, too
        for device in filter(torch.is_autocast_enabled, _AUTOCAST_DEVICES):
            stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        yield
