"""LoRA adapters, low-rank updates trained in place of a model's weights: add them to a model, and store them in the format of `peft`."""

from tfkit.adapters.adapter_folders import Base as Base
from tfkit.adapters.adapter_folders import base_folder as base_folder
from tfkit.adapters.adapter_folders import describe as describe
from tfkit.adapters.adapter_folders import is_adapter as is_adapter
from tfkit.adapters.adapter_folders import load as load
from tfkit.adapters.adapter_folders import save_adapter as save_adapter
from tfkit.adapters.lora import LORA_PARAMETERS as LORA_PARAMETERS
from tfkit.adapters.lora import FrozenReference as FrozenReference
from tfkit.adapters.lora import Merged as Merged
from tfkit.adapters.lora import add_lora as add_lora
from tfkit.adapters.lora import freeze as freeze
from tfkit.adapters.lora import needs_copy as needs_copy
from tfkit.adapters.peft_config import how_to_merge as how_to_merge
