"""LoRA adapters, low-rank updates trained in place of a model's weights: in the model, and on disk in the format of the `peft` library."""

from tfkit.adapters.adapter_folders import Base, base_folder, describe, is_adapter, load, save_adapter
from tfkit.adapters.lora import LORA_PARAMETERS, FrozenReference, add_lora, freeze, merged, needs_copy
from tfkit.adapters.peft_config import how_to_merge

__all__ = [
    "LORA_PARAMETERS",
    "Base",
    "FrozenReference",
    "add_lora",
    "base_folder",
    "describe",
    "freeze",
    "how_to_merge",
    "is_adapter",
    "load",
    "merged",
    "needs_copy",
    "save_adapter",
]
