"""What a model is, as data: one frozen, torch-free tree. The modules beside this file turn it into a Transformer.

A field exists only if one of the systems uses it, and what belongs to one kind lives in that kind's member of a union.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]


class Data(BaseModel):
    """A frozen record that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class NormConfig(Data):
    """What keeps the residual stream's scale in bounds."""

    kind: Literal["layer", "rms"] = Field(description="LayerNorm (mean, variance, bias) or RMSNorm (no mean, no bias).")
    eps: float = Field(1e-5, gt=0, description="Added to the variance, or to the mean square, inside the root.")


class Learned(Data):
    """One vector a position, added to the embeddings (GPT-2)."""

    kind: Literal["learned"]


class Rotary(Data):
    """Rotation of queries and keys by their position (RoFormer, arXiv 2104.09864)."""

    kind: Literal["rotary"]
    theta: float = Field(10_000.0, gt=0, description="Base of the wavelengths.")


Position = Annotated[Learned | Rotary, Field(discriminator="kind")]


class AttentionConfig(Data):
    """How tokens look at each other, beyond the number of heads."""

    qkv_bias: bool = Field(False, description="A bias on the query, key and value projections.")
    out_bias: bool = Field(False, description="A bias on the output projection.")


class MlpConfig(Data):
    """What happens at each position on its own."""

    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = Field(description="gelu is the exact (erf) form.")
    gated: bool = Field(False, description="down(activation(gate x) * up x) instead of down(activation(up x)).")
    bias: bool = Field(False, description="A bias on each of its projections.")


class HeadConfig(Data):
    """What is read off the hidden states."""

    kind: Literal["lm"] = Field("lm", description="lm: a logit for each entry of the vocabulary.")
    tied: bool = Field(description="Whether the output matrix is the token embedding.")


class DropoutConfig(Data):
    """Probabilities during training. Attention dropout rules out the fused kernel: 3 to 7 times the time on a CPU."""

    embedding: Probability = Field(0.0, description="On the sum of the embeddings.")
    attention: Probability = Field(0.0, description="On the attention weights.")
    residual: Probability = Field(0.0, description="On each sublayer's output, before it is added.")


class InitConfig(Data):
    """The random weights that pretraining starts from."""

    std: float = Field(0.02, gt=0, description="Standard deviation of the normal from which matrices are drawn.")
    residual_scaling: bool = Field(
        False, description="Divide the std of the matrices that write to the residual stream by sqrt(2 * layers) (GPT-2)."
    )


class ModelConfig(Data):
    """The whole description of a model: enough to build it, and nothing else."""

    vocab_size: int = Field(gt=0, description="Rows of the embedding; left out, the tokenizer's size.")
    context_length: int = Field(gt=0, description="The longest sequence, in tokens.")
    decoder_layers: int = Field(gt=0, description="Blocks in the decoder stack.")
    dim: int = Field(gt=0, description="Width of the residual stream.")
    hidden_dim: int = Field(gt=0, description="Width inside the MLP; null: 4 dim, or, gated, 8/3 dim rounded up to a multiple of 256.")
    num_heads: int = Field(gt=0, description="Query heads.")
    num_kv_heads: int = Field(gt=0, description="Key and value heads, each shared by num_heads / num_kv_heads queries; null: num_heads.")
    head_dim: int = Field(gt=0, description="Width of a head; null: dim / num_heads.")
    position: Position = Field(description="How the model knows the order of its tokens.")
    norm: NormConfig
    attention: AttentionConfig = AttentionConfig()
    mlp: MlpConfig
    head: HeadConfig
    dropout: DropoutConfig = DropoutConfig()
    init: InitConfig = InitConfig()

    @model_validator(mode="before")
    @classmethod
    def _fill_widths(cls, values: Any) -> Any:
        """Null widths follow from the others, so that a preset with another dim stays in proportion."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        dim, heads = values.get("dim"), values.get("num_heads")
        if values.get("num_kv_heads") is None and isinstance(heads, int):
            values["num_kv_heads"] = heads
        if isinstance(dim, int) and isinstance(heads, int) and heads > 0 and values.get("head_dim") is None:
            if dim % heads:
                raise ValueError(f"dim {dim} is not divisible by num_heads {heads}; change one of them, or state head_dim")
            values["head_dim"] = dim // heads
        if isinstance(dim, int) and values.get("hidden_dim") is None:
            mlp = values.get("mlp")
            gated = mlp.get("gated", False) if isinstance(mlp, dict) else getattr(mlp, "gated", False)
            values["hidden_dim"] = -(-int(8 * dim / 3) // 256) * 256 if gated else 4 * dim
        return values

    @model_validator(mode="after")
    def _check_heads(self) -> "ModelConfig":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.position.kind == "rotary" and self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd; rotary positions turn pairs, so it must be even")
        return self
