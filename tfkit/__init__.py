"""tfkit: pretrain and fine-tune Transformers. docs/library.md documents the Python API."""

import importlib
from typing import TYPE_CHECKING, Any

from tfkit.openmp import limit_spinning

__version__ = "0.1.0"
limit_spinning()

if TYPE_CHECKING:
    from tfkit.engine.api import average, evaluate, finetune, generate, load, plan, predict, pretrain, resume, sweep, track

__all__ = ["__version__", "average", "evaluate", "finetune", "generate", "load", "plan", "predict", "pretrain", "resume", "sweep", "track"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import tfkit` is fast."""
    if name in ("console", "errors"):  # `console` shows progress; `errors` has the exceptions of the functions
        return importlib.import_module(f"tfkit.{name}")
    if name in __all__:
        from tfkit.engine import api

        return getattr(api, name)
    raise AttributeError(f"module 'tfkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, for the completion of names in a notebook."""
    return sorted([*__all__, "console", "errors"])
