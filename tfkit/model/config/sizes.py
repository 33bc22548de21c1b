"""The base class of all parts of a model's description, and the bounds of their sizes."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# The largest sizes that are accepted, above those of all published models.
MAX_LAYERS = 1_024  # layers of a stack; the deepest published model has 1,000 (DeepNet, arXiv 2203.00555)
Layers = Annotated[int, Field(ge=0, le=MAX_LAYERS)]
Width = Annotated[int, Field(gt=0, le=1 << 20)]  # width of the residual stream, or of a head; PaLM has 18,432
HiddenWidth = Annotated[int, Field(gt=0, le=1 << 23)]  # width inside the MLP, by default 4 dim, or 8/3 dim if gated; T5 has 65,536
Heads = Annotated[int, Field(gt=0, le=1 << 14)]
Rows = Annotated[int, Field(gt=0, le=1 << 24)]  # entries of the vocabulary, classes or tags
Distance = Annotated[int, Field(gt=0, le=1 << 31)]  # in tokens
Context = Annotated[int, Field(gt=0, le=1 << 28)]  # in tokens; the longest published context is 10 million
Factor = Annotated[float, Field(gt=0, le=1e6)]  # bounded so that its square and cube fit float32
Epsilon = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]


class Data(BaseModel):
    """A frozen record that refuses unknown fields, infinity and NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
