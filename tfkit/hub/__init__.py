"""Conversion between Hugging Face model folders and Transformer, tfkit's model class, by the rules of model families (tfkit/families).

Loading is strict in both directions: each tensor of a file becomes a parameter, belongs to a head or part that is not read, or is known to
carry no information; and each parameter of the model gets a value, a random one in a new head. Weights are read only from safetensors: a
pickle can run code, so it is refused.
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
