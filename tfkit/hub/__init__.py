"""Hugging Face model folders <-> Transformer. The only place where a family's rules are applied to tensors.

Loading is strict both ways: every foreign tensor is mapped or known to carry no information, every parameter of ours is filled.
safetensors and JSON only: a pickle can run code, so it is refused.
"""

from tfkit.hub.config_json import OWN_TYPE
from tfkit.hub.find import content_hash, find_checkpoint, run_id_of
from tfkit.hub.model_reading import Described, Loaded, describe, load, open_tensors
from tfkit.hub.model_writing import save_model

__all__ = [
    "OWN_TYPE",
    "Described",
    "Loaded",
    "content_hash",
    "describe",
    "find_checkpoint",
    "load",
    "open_tensors",
    "run_id_of",
    "save_model",
]
