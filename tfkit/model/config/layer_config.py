"""The parts of a layer: its norms, its attention (except the number and width of its heads), and its MLP or mixture of experts."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tfkit.model.config.sizes import MAX_LAYERS, Data, Distance, Epsilon, Factor, HiddenWidth


class _Norm(Data):
    """Normalization of the residual stream."""

    eps: Epsilon = Field(1e-5, description="Added to the variance, or to the mean square, inside the root.")
    placement: Literal["pre", "post", "sandwich", "reordered", "parallel"] = Field(
        "pre",
        description="pre: x + f(norm x), and a last norm. post: norm(x + f(x)). sandwich: x + norm(f(norm x)), and a last norm. "
        "reordered: x + norm(f(x)), and a last norm (OLMo 2). parallel: all sublayers of a block read the same x, "
        "x + f(norm x) + g(norm x), and a last norm (GPT-NeoX).",
    )
    first: bool = Field(True, description="Placement pre: whether the first attention of a stack has a norm, too (ModernBERT: no).")

    @model_validator(mode="after")
    def _check_first(self) -> "_Norm":
        if not self.first and self.placement != "pre":
            raise ValueError(f"norm.first is false, but with the placement {self.placement} no first norm can be left out")
        return self


class LayerNormConfig(_Norm):
    """LayerNorm: normalization by mean and variance, with a weight and an optional bias (arXiv 1607.06450)."""

    kind: Literal["layer"]
    bias: bool = Field(True, description="Whether norms have a bias.")


class RMSNormConfig(_Norm):
    """RMSNorm: normalization by the mean square alone, with a weight (arXiv 1910.07467)."""

    kind: Literal["rms"]
    unit_offset: bool = Field(False, description="The weight is stored minus one, so that 0 is neutral (Gemma).")


NormConfig = Annotated[LayerNormConfig | RMSNormConfig, Field(discriminator="kind")]


class AttentionConfig(Data):
    """The attention, apart from the number and width of its heads, which are fields of ModelConfig."""

    qkv_bias: bool = Field(False, description="A bias on the query, key and value projections.")
    out_bias: bool = Field(False, description="A bias on the output projection.")
    scale: Factor | None = Field(None, description="Multiplies the scores; null: 1 / sqrt(head_dim). T5 has 1.")
    softcap: Factor | None = Field(None, description="Scores become cap * tanh(score / cap) (Gemma 2); null: no cap.")
    qk_norm: Literal["head", "projection"] | None = Field(
        None,
        description="A norm on queries and keys before their rotation. head: over each head, with weights that all heads share (Qwen 3). "
        "projection: over all heads together (OLMo 2). null: none.",
    )
    windows: list[Distance | None] = Field(
        [None],
        min_length=1,
        max_length=MAX_LAYERS,
        description="Number of tokens to which a token attends backwards, itself included, and in an encoder also forwards; null: all. "
        "One value per layer; a shorter list is repeated: [4096, null].",
    )


class ExpertsConfig(Data):
    """Several MLPs, called experts, of which a router chooses a few for each token (Shazeer et al. 2017, arXiv 1701.06538)."""

    count: int = Field(ge=2, le=1 << 12, description="Number of experts in a layer.")
    active: int = Field(ge=1, le=1 << 12, description="Number of experts that compute each token: those with the largest probabilities.")
    hidden_dim: HiddenWidth | None = Field(None, description="Width inside an expert; null: the model's hidden_dim.")
    normalized: bool = Field(
        True, description="Divide the probabilities of the chosen experts, which weight their outputs, by their sum (OLMoE: no)."
    )
    layers: list[bool] = Field(
        [True],
        min_length=1,
        max_length=MAX_LAYERS,
        description="Whether each layer has experts; the others have one MLP of the model's hidden_dim. A shorter list is repeated.",
    )

    @model_validator(mode="after")
    def _check_active(self) -> "ExpertsConfig":
        if self.active > self.count:
            raise ValueError(f"mlp.experts.active {self.active} is above mlp.experts.count {self.count}")
        return self


class MlpConfig(Data):
    """The feed-forward sublayer, applied to each position independently."""

    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = Field(description="gelu is the exact (erf) form.")
    gated: bool = Field(False, description="down(activation(gate x) * up x) instead of down(activation(up x)).")
    bias: bool = Field(False, description="A bias on each of its projections.")
    experts: ExpertsConfig | None = Field(None, description="A mixture of experts, each such an MLP; null: one MLP for all tokens.")
