"""The config of a model: one tree of frozen records. The other modules of tfkit/model build a Transformer from it.

A field exists only if one of the model families uses it. A field for only one kind of positions, norm or head is in the class of that kind.

layer_config.py defines the parts of a layer, position_config.py the kinds of positions, head_config.py the kinds of output layers, and
sizes.py the bounds of all sizes. No file here imports torch.
"""

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from tfkit.model.config.head_config import (
    ClassesHeadConfig,
    HeadConfig,
    LanguageModelHeadConfig,
    MaskedLanguageModelHeadConfig,
    NoHeadConfig,
    TagsHeadConfig,
)
from tfkit.model.config.layer_config import AttentionConfig, ExpertsConfig, MlpConfig, NormConfig
from tfkit.model.config.position_config import LongRopeScaling, Position, Relative, Rotary
from tfkit.model.config.sizes import Context, Data, Heads, HiddenWidth, Layers, Probability, Rows, Width

__all__ = [
    "ClassesHeadConfig",
    "Data",
    "EmbeddingConfig",
    "ExpertsConfig",
    "HeadConfig",
    "LanguageModelHeadConfig",
    "LongRopeScaling",
    "MaskedLanguageModelHeadConfig",
    "ModelConfig",
    "NoHeadConfig",
    "NormConfig",
    "Position",
    "Rotary",
    "TagsHeadConfig",
]


class EmbeddingConfig(Data):
    """The processing of token vectors before the first block."""

    scale: bool = Field(False, description="Multiply the embeddings by the root of dim (arXiv 1706.03762, Gemma).")
    norm: bool = Field(False, description="A norm over the sum of all embeddings (BERT).")
    dim: Width | None = Field(
        None, description="Width of the token, position and segment vectors, which a matrix then widens to dim (ELECTRA); null: dim."
    )
    segments: Width | None = Field(None, description="Segment vectors, one for each text of a pair (BERT: 2); null: none.")


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


class ModelConfig(Data):
    """The whole description of a model: all that is needed to build it, and nothing else."""

    vocab_size: Rows = Field(description="Rows of the embedding; if left out, the tokenizer's size.")
    context_length: Context = Field(description="The longest sequence, in tokens.")
    encoder_layers: Layers = Field(0, description="Blocks in the encoder stack, whose tokens see each other; 0: no encoder.")
    decoder_layers: Layers = Field(0, description="Blocks in the decoder stack, whose tokens see only the earlier ones; 0: no decoder.")
    dim: Width = Field(description="Width of the residual stream.")
    hidden_dim: HiddenWidth = Field(description="Width inside the MLP; null: 4 dim, or 8/3 dim rounded up to a multiple of 256 if gated.")
    num_heads: Heads = Field(description="Query heads.")
    num_kv_heads: Heads = Field(description="Key and value heads, each shared by num_heads / num_kv_heads query heads; null: num_heads.")
    head_dim: Width = Field(description="Width of a head; null: dim / num_heads.")
    embedding: EmbeddingConfig = EmbeddingConfig()
    position: Position = Field(description="How the model knows the order of its tokens.")
    norm: NormConfig
    attention: AttentionConfig = AttentionConfig()
    mlp: MlpConfig
    head: HeadConfig = Field(description="The output layer on top of the hidden states.")
    dropout: DropoutConfig = DropoutConfig()
    init: InitConfig = InitConfig()
    routing: RoutingConfig | None = Field(None, description="The losses of a mixture of experts; null: their defaults.")

    @model_validator(mode="before")
    @classmethod
    def _fill_widths(cls, values: Any) -> Any:
        """Derive null num_kv_heads, head_dim and hidden_dim from num_heads and dim, so that a preset with a changed dim keeps its
        proportions. Fill in the default kind of head (lm) and, for a mixture of experts, the default routing.
        """
        if not isinstance(values, dict):
            return values
        values = dict(values)
        if isinstance(head := values.get("head"), dict):
            values["head"] = {"kind": "lm", **head}
        dim, heads, mlp = (values.get(name) for name in ("dim", "num_heads", "mlp"))
        if values.get("num_kv_heads") is None and isinstance(heads, int):
            values["num_kv_heads"] = heads
        if isinstance(dim, int) and isinstance(heads, int) and heads > 0 and values.get("head_dim") is None:
            if dim % heads:
                raise ValueError(f"dim {dim} is not divisible by num_heads {heads}; change one of them, or state head_dim")
            values["head_dim"] = dim // heads
        if isinstance(dim, int) and values.get("hidden_dim") is None:
            gated = isinstance(mlp, dict | MlpConfig) and dict(mlp).get("gated", False)
            values["hidden_dim"] = -(-(8 * dim // 3) // 256) * 256 if gated else 4 * dim
        if values.get("routing") is None and isinstance(mlp, dict | MlpConfig) and dict(mlp).get("experts") is not None:
            values["routing"] = {}
        return values

    @property
    def stacks(self) -> Literal["encoder", "decoder", "both"]:
        """Which stacks of layers the model has."""
        return "decoder" if not self.encoder_layers else "both" if self.decoder_layers else "encoder"

    @property
    def tied(self) -> bool:
        """Whether the token embedding is also the output matrix."""
        return isinstance(self.head, LanguageModelHeadConfig | MaskedLanguageModelHeadConfig) and self.head.tied

    @property
    def final_norm(self) -> bool:
        """Whether a stack ends in a norm of its own: yes, unless each sublayer ends in a norm of the residual stream."""
        return self.norm.placement != "post"

    @property
    def position_rows(self) -> int:
        """The rows of the table of learned positions; 0: there is none."""
        return self.context_length + self.position.offset if self.position.kind == "learned" else 0

    @property
    def adds_to_scores(self) -> bool:
        """Whether positions add a term to the attention scores, which the fast kernels (FlashAttention) do not support."""
        return self.relative is not None or self.position.kind == "disentangled"

    @property
    def embeds_apart(self) -> bool:
        """Whether the decoder's embedding has learned positions or a norm of its own; the token vectors are always the encoder's."""
        return bool(self.encoder_layers and self.decoder_layers and (self.position_rows or self.embedding.norm))

    @property
    def embedding_dim(self) -> int:
        """The width of the token vectors."""
        return self.embedding.dim or self.dim

    @property
    def relative(self) -> Relative | None:
        """The bias of relative positions, alone or in addition to learned vectors; None: there is none."""
        return self.position.relative if self.position.kind == "learned" else self.position if self.position.kind == "relative" else None

    def window(self, layer: int) -> int | None:
        """Return how many positions a query of this layer sees backwards (an encoder's also forwards), its own included; None: all."""
        return self.attention.windows[layer % len(self.attention.windows)]

    def rotation(self, layer: int) -> Literal["global", "local"] | None:
        """Return `global` if this layer rotates queries and keys with the base theta, `local` if with local_theta, None if not at all."""
        position = self.position
        if not isinstance(position, Rotary) or not position.layers[layer % len(position.layers)]:
            return None
        return "local" if position.local_theta is not None and self.window(layer) is not None else "global"

    def has_experts(self, layer: int) -> bool:
        """Return whether this layer has a mixture of experts in place of one MLP."""
        experts = self.mlp.experts
        return experts is not None and experts.layers[layer % len(experts.layers)]

    @property
    def expert_dim(self) -> int:
        """The width inside an expert."""
        return (self.mlp.experts and self.mlp.experts.hidden_dim) or self.hidden_dim

    @property
    def has_mlp(self) -> bool:
        """Whether any layer has one MLP for all tokens, in place of experts."""
        return self.encoder_layers > 0 or not all(map(self.has_experts, range(self.decoder_layers)))

    @property
    def active_hidden_dim(self) -> int:
        """The largest width, over the layers, of what computes a token: of the MLP, or of the chosen experts together."""
        sparse = self.mlp.experts.active * self.expert_dim if self.mlp.experts else 0
        return max(sparse, self.hidden_dim if self.has_mlp else 0)

    @property
    def period(self) -> int:
        """The number of layers after which windows, rotations and experts repeat."""
        of_rotation = len(self.position.layers) if isinstance(self.position, Rotary) else 1
        return math.lcm(len(self.attention.windows), of_rotation, len(self.mlp.experts.layers) if self.mlp.experts else 1)

    @model_validator(mode="after")
    def _check_stacks_and_embedding(self) -> "ModelConfig":
        if not self.encoder_layers and not self.decoder_layers:
            raise ValueError("a model needs encoder_layers, decoder_layers, or both")
        if self.position.kind == "sinusoidal" and self.embedding_dim % 2:
            name = "embedding.dim" if self.embedding.dim else "dim"
            raise ValueError(f"{name} {self.embedding_dim} is odd; sinusoidal positions come in pairs, so it must be even")
        if self.embedding.dim is not None and self.head.kind == "lm":
            raise ValueError("embedding.dim is for encoders, since the head of a language model has no layer to this width; remove it")
        return self

    @model_validator(mode="after")
    def _check_experts(self) -> "ModelConfig":
        if self.mlp.experts is None:
            if self.routing is not None:
                raise ValueError("routing is for a mixture of experts, but mlp.experts is null; set model.routing to null, too")
        elif self.encoder_layers:
            raise ValueError("a mixture of experts is for a decoder alone; remove mlp.experts or encoder_layers")
        elif not any(map(self.has_experts, range(self.decoder_layers))):
            raise ValueError("mlp.experts.layers gives no layer experts; make one of its values true, or remove mlp.experts")
        return self

    @model_validator(mode="after")
    def _check_relative(self) -> "ModelConfig":
        relative = self.position if self.position.kind == "disentangled" else self.relative
        if relative is None:
            return self
        distance, near = relative.max_distance, relative.buckets // 2 + (relative.kind == "disentangled")
        if relative.kind == "disentangled" and self.decoder_layers:
            raise ValueError("disentangled positions are for an encoder alone; remove decoder_layers")
        if distance <= near:
            raise ValueError(f"position.max_distance {distance} is not above {near}: shorter distances have a bucket each")
        if self.attention.softcap is not None or self.attention.windows != [None]:
            raise ValueError("relative positions support neither attention.softcap nor attention.windows; remove them")
        return self

    @model_validator(mode="after")
    def _check_heads(self) -> "ModelConfig":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.position.kind == "rotary" and self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd; rotary positions rotate pairs, so it must be even")
        if isinstance(self.position, Rotary) and ((rotated := self.position.rotated(self.head_dim)) % 2 or not rotated):
            raise ValueError(f"position.fraction of head_dim {self.head_dim} is {rotated}; it must be an even number of at least 2")
        if isinstance(self.position, Rotary) and isinstance(scaling := self.position.scaling, LongRopeScaling):
            for name in ("short_factors", "long_factors"):
                if (found := len(getattr(scaling, name))) != rotated // 2:
                    raise ValueError(f"position.scaling.{name} has {found} values, but a head has {rotated // 2} pairs that are rotated")
        return self
