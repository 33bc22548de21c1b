"""Hugging Face model folders <-> Transformer. The only place where a family's rules and tensors meet.

Loading is strict both ways: every foreign tensor is mapped or known to carry nothing, every parameter of ours is filled. safetensors
and JSON only: a pickle can run code, so it is refused.
"""

from tfkit.hub.config_json import OWN_TYPE, family_of
from tfkit.hub.find import find_checkpoint
from tfkit.hub.reading import Loaded, load
from tfkit.hub.writing import save_model

__all__ = ["OWN_TYPE", "Loaded", "family_of", "find_checkpoint", "load", "save_model"]
