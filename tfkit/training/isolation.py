"""The state of a process that a run changes and restores: threads, seeds, deterministic algorithms, warnings, environment."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def isolated() -> Iterator[None]:
    """Restore, after the block, torch's threads, random state and determinism, the warning filters and the environment."""
    import torch

    from tfkit.training.device import set_determinism

    threads, state, environment = torch.get_num_threads(), torch.random.get_rng_state(), dict(os.environ)
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    determinism = torch.get_deterministic_debug_mode()  # 0: off, 1: warn, 2: raise
    benchmark, filled = torch.backends.cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    with warnings.catch_warnings():
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
