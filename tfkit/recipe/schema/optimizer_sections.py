"""The sections of a recipe for the training step: optimizers, the learning rate's schedule, and the arrangement of ranks (processes)."""

from typing import Annotated, Literal

from pydantic import Field

from tfkit.model.config import Data
from tfkit.recipe.schema.bounds import Count, CountOrZero, Epsilon, LearningRate, Positive, Tokens, Weight

Decay = Annotated[float, Field(ge=0, lt=1)]
ClipNorm = Annotated[Positive | None, Field(description="Clip the gradient to this norm (2-norm over all parameters); null: no clipping.")]
LayerDecay = Annotated[
    float, Field(gt=0, le=1, description="The learning rate of a block is that of the block (or the head) above it, times this factor.")
]


class AdamWSection(Data):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2017, arXiv 1711.05101)."""

    kind: Literal["adamw"] = "adamw"
    lr: LearningRate = Field(1e-3, description="Peak learning rate; with the schedule noam the factor of its formula.")
    betas: tuple[Decay, Decay] = Field((0.9, 0.95), description="Decay rates of the two moments.")
    eps: Epsilon = Field(1e-8, description="Added to the root of the second moment.")
    bias_correction: bool = Field(True, description="Correct for moments that start at 0; BERT's Adam does not.")
    weight_decay: Weight = Field(0.1, description="Decoupled decay, on matrices only: not on norms and biases.")
    clip_norm: ClipNorm = 1.0
    layer_decay: LayerDecay = 1.0


class AdamSection(Data):
    """Adam (Kingma & Ba 2014, arXiv 1412.6980) with the settings of the 2017 Transformer: no weight decay, and no clipping by default."""

    kind: Literal["adam"]
    lr: LearningRate = Field(1e-3, description="Peak learning rate; with the schedule noam the factor of its formula.")
    betas: tuple[Decay, Decay] = Field((0.9, 0.98), description="Decay rates of the two moments.")
    eps: Epsilon = Field(1e-9, description="Added to the root of the second moment.")
    bias_correction: bool = Field(True, description="Correct for moments that start at 0; BERT's Adam does not.")
    clip_norm: ClipNorm = None
    layer_decay: LayerDecay = 1.0


class AdafactorSection(Data):
    """Adafactor (Shazeer & Stern 2018, arXiv 1804.04235) with T5's settings: a factored second moment, and no first moment."""

    kind: Literal["adafactor"]
    lr: LearningRate = Field(1e-2, description="Peak learning rate, relative to each tensor's own size if scale_parameter is true.")
    scale_parameter: bool = Field(True, description="Multiply the learning rate by the root mean square of the tensor.")
    min_scale: Positive = Field(1e-3, description="The smallest factor of scale_parameter (the paper's second epsilon).")
    decay_rate: float = Field(0.8, gt=0, le=1, description="In step t the second moment's decay is 1 - t ^ -decay_rate.")
    clip_threshold: Positive = Field(1.0, description="Largest root mean square of a tensor's update, before the learning rate.")
    eps: Epsilon = Field(1e-30, description="Added to the squared gradient.")
    weight_decay: Weight = Field(0.0, description="Decoupled decay, on matrices only: not on norms and biases.")
    clip_norm: ClipNorm = None
    layer_decay: LayerDecay = 1.0


class MuonSection(Data):
    """Muon (Jordan et al. 2024; scaled as in arXiv 2502.16982) for matrices of blocks; AdamW for embeddings, head, norms and biases."""

    kind: Literal["muon"]
    lr: LearningRate = Field(1e-3, description="Peak learning rate of the matrices; Muon's updates are scaled to AdamW's size.")
    adamw_lr: LearningRate | None = Field(None, description="Peak learning rate of the parameters that AdamW trains; null: lr.")
    momentum: float = Field(0.95, ge=0, lt=1, description="Muon's momentum (Nesterov).")
    betas: tuple[Decay, Decay] = Field((0.9, 0.95), description="AdamW's decay rates, for all other parameters.")
    eps: Epsilon = Field(1e-8, description="AdamW's eps, for all other parameters.")
    weight_decay: Weight = Field(0.1, description="Decoupled decay, on matrices only: not on norms and biases.")
    clip_norm: ClipNorm = 1.0


OptimizerSection = AdamWSection | AdamSection | AdafactorSection | MuonSection


class ScheduleSection(Data):
    """The curve of the learning rate over the run, as a fraction of its peak, optimizer.lr."""

    kind: Literal["constant", "linear", "cosine", "inverse_sqrt", "noam", "wsd"] = Field(
        "cosine",
        description="The learning rate after warm-up. wsd: constant, then a linear decay at the end. noam, of the 2017 Transformer: "
        "optimizer.lr * dim ^ -0.5 * min(step ^ -0.5, step * warmup_steps ^ -1.5), warm-up included.",
    )
    warmup_steps: CountOrZero = Field(0, description="Number of steps over which the rate rises linearly from 0.")
    warmup_tokens: Tokens | None = Field(
        None, description="Number of training tokens over which the rate rises linearly from 0, instead of warmup_steps."
    )
    warmup_ratio: float | None = Field(
        None, gt=0, lt=1, description="Fraction of all steps over which the rate rises linearly, rounded up, instead of warmup_steps."
    )
    flat_steps: CountOrZero = Field(
        0, description="inverse_sqrt stays at its peak up to this step. T5's 1 / sqrt(max(step, 10000)) is lr 0.01 with flat_steps 10000."
    )
    final_ratio: float = Field(0.0, ge=0, le=1, description="Ratio of the learning rate at the end to its peak (linear, cosine, wsd).")
    decay_end: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Fraction of the run after which linear and cosine stay at final_ratio: GPT-3's 260 of 300 billion tokens are 0.867.",
    )
    decay_ratio: float = Field(0.2, gt=0, le=1, description="Fraction of all steps, at the end of the run, over which wsd decays.")


class ParallelSection(Data):
    """The arrangement of the ranks (processes) in replicas and shards of the model. The steps read the same rows in any arrangement, so the
    arrangement may change when a run is resumed.
    """

    shard: Count = Field(
        1,
        description="Number of ranks over which the weights, gradients and optimizer state of one copy of the model are sharded; 1: every "
        "rank holds all of them.",
    )
    replicas: Count | Literal["auto"] = Field(
        "auto", description="Number of copies of the model; replicas times shard is the number of ranks. auto: ranks / shard."
    )
    reshard: bool | Literal["auto"] = Field(
        "auto",
        description="true: free the gathered weights of a block after its forward pass, and reduce gradients after every micro-batch "
        "(least memory). false: keep the weights until the end of the backward pass, and the gradients until the end of the step (least "
        "traffic). auto: true. Only sharded weights are affected.",
    )
