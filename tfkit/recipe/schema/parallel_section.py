"""The section for the ranks of a training: how they share the work and the model. Torch-free."""

from typing import Literal

from pydantic import Field

from tfkit.model.config import Data
from tfkit.recipe.schema.bounds import Count


class ParallelSection(Data):
    """The ranks as a mesh of replicas and shards. It does not change the steps, and may be changed whenever a run is resumed."""

    shard: Count = Field(
        1,
        description="Ranks that share the weights, gradients and optimizer state of one copy of the model; 1: every rank holds them all.",
    )
    replicas: Count | Literal["auto"] = Field(
        "auto", description="Copies of the model; replicas times shard is the number of ranks. auto: ranks / shard."
    )
    reshard: bool | Literal["auto"] = Field(
        "auto",
        description="Of shared weights, free a block's after its forward, and add up gradients after every micro-batch: least memory. "
        "false: keep both until the backward pass, or the step, is over: least traffic. auto: true.",
    )
