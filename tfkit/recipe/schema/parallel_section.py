"""The section for the ranks of a training: how they divide the work and shard the model. Torch-free."""

from typing import Literal

from pydantic import Field

from tfkit.model.config import Data
from tfkit.recipe.schema.bounds import Count


class ParallelSection(Data):
    """The ranks as a mesh of replicas and shards. It does not change the steps, and may be changed whenever a run is resumed."""

    shard: Count = Field(
        1, description="Ranks with sharded weights, gradients and optimizer state of one copy of the model; 1: every rank holds them all."
    )
    replicas: Count | Literal["auto"] = Field(
        "auto", description="Copies of the model; replicas times shard is the number of ranks. auto: ranks / shard."
    )
    reshard: bool | Literal["auto"] = Field(
        "auto",
        description="With sharded weights, free those of a block after its forward pass, and sum gradients after every micro-batch: least "
        "memory. "
        "false: keep both until the end of the backward pass, or of the step: least traffic. auto: true.",
    )
