"""tfkit: pretrain and fine-tune the Transformers of the field's history. `tfkit.load(folder)` is the library's door."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tfkit.adapters import load as load

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import torch only when `load` is first asked for, so that `import tfkit` stays light."""
    if name == "load":
        from tfkit.adapters import load

        return load
    raise AttributeError(f"module 'tfkit' has no attribute {name!r}")
