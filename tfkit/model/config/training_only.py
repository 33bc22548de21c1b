"""The parts of a model's description that act only in training: dropout, random weights and the losses of routers."""

from typing import Literal

from pydantic import Field

from tfkit.model.config.sizes import Data, Probability


class DropoutConfig(Data):
    """Dropout probabilities. Attention dropout rules out the fused kernel: attention then takes 1.5 to 7 times as long on a CPU."""

    embedding: Probability = Field(0.0, description="On the sum of the embeddings.")
    attention: Probability = Field(0.0, description="On the attention weights.")
    residual: Probability = Field(0.0, description="On each sublayer's output, before it is added.")
    hidden: Probability = Field(0.0, description="Inside the MLP, after the activation (T5).")
    final: Probability = Field(0.0, description="On a stack's output, after its last norm (T5).")
    head: Probability = Field(0.0, description="On the input of a head for classes, choices or tags.")


class InitConfig(Data):
    """The random initialization of the weights for pretraining."""

    scheme: Literal["normal", "fan_in", "by_width"] = Field(
        "normal",
        description="normal: with std. fan_in: uniform, variance 1 / input width (2017). by_width: normal, variance 1 / width (T5).",
    )
    std: float = Field(0.02, gt=0, le=1e30, description="Standard deviation of the normal from which matrices are drawn.")
    residual_scaling: bool = Field(
        False, description="Divide the std of the matrices that write to the residual stream by sqrt(2 * layers) (GPT-2)."
    )


class RoutingConfig(Data):
    """The losses that train the routers of a mixture of experts in addition to the objective's terms. Models without experts have none."""

    balance: float = Field(
        0.01, ge=0, le=1e6, description="Weight of the loss that is smallest if all experts get equally many tokens; 0: no such loss."
    )
    z_loss: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="Weight of the mean square of the log of the sum of the routers' exponentials (OLMoE); 0: no such loss.",
    )
