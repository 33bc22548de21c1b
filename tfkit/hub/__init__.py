"""Hugging Face model folders <-> Transformer. The only place where a family's rules are applied to tensors.

Loading is strict both ways: every foreign tensor is mapped or known to carry no information, every parameter of ours is filled.
safetensors and JSON only: a pickle can run code, so it is refused.
"""

from tfkit.hub.config_json import OWN_TYPE as OWN_TYPE
from tfkit.hub.find import content_hash as content_hash
from tfkit.hub.find import find_checkpoint as find_checkpoint
from tfkit.hub.find import run_id_of as run_id_of
from tfkit.hub.model_reading import Described as Described
from tfkit.hub.model_reading import Loaded as Loaded
from tfkit.hub.model_reading import describe as describe
from tfkit.hub.model_reading import load as load
from tfkit.hub.model_reading import open_tensors as open_tensors
from tfkit.hub.model_writing import save_model as save_model
