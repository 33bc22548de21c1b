"""tfkit: pretrain and fine-tune Transformers. docs/library.md documents the Python API."""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tfkit.engine.api import average, evaluate, finetune, generate, load, plan, predict, pretrain, resume, sweep, track

__all__ = ["__version__", "average", "evaluate", "finetune", "generate", "load", "plan", "predict", "pretrain", "resume", "sweep", "track"]


# The idle OpenMP threads of PyTorch spin (wait actively), and a spinning thread occupies a core that another process may need. By default,
# GNU's OpenMP spins for milliseconds: on two cores, a training is then ten times slower while another process is busy. Without any
# spinning, on an otherwise idle machine, a training loses a third of its speed, and generation loses most of its speed, because its
# parallel regions are far apart. A short spin costs little in all these cases (benchmarks/contention.py; docs/log.md).
_SPIN_COUNT = "10000"  # a few hundred microseconds: longer than most gaps between parallel regions
_SPIN_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def _limit_spinning() -> None:
    """Set a short spin, unless the environment has one of _SPIN_SETTINGS, or torch was imported before and has read the environment."""
    if "torch" not in sys.modules and not any(name in os.environ for name in _SPIN_SETTINGS):
        os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT


_limit_spinning()


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import tfkit` is fast."""
    if name in ("console", "errors"):  # `console` shows progress; `errors` has the exceptions that the functions raise
        return importlib.import_module(f"tfkit.{name}")
    if name in __all__:
        from tfkit.engine import api

        return getattr(api, name)
    raise AttributeError(f"module 'tfkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, for the completion of names in a notebook."""
    return sorted([*__all__, "console", "errors"])
