"""The description of a model: one frozen, torch-free tree. The other modules of this folder build a Transformer from it.

A field exists only if one of the systems uses it, and a field that applies to one kind only is in that kind's member of a union.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# The largest sizes: far above any published model's, so that the product of any three fits 63 bits.
MAX_LAYERS = 1_024  # layers of a stack; the deepest published model has 1,000 (DeepNet, arXiv 2203.00555)
Layers = Annotated[int, Field(ge=0, le=MAX_LAYERS)]
Width = Annotated[int, Field(gt=0, le=1 << 20)]  # width of the residual stream, or of a head; PaLM has 18,432
HiddenWidth = Annotated[int, Field(gt=0, le=1 << 23)]  # inside the MLP, which is 4 dim unless it is stated; T5 has 65,536
Heads = Annotated[int, Field(gt=0, le=1 << 14)]
Rows = Annotated[int, Field(gt=0, le=1 << 24)]  # entries of the vocabulary, or classes
Distance = Annotated[int, Field(gt=0, le=1 << 31)]  # in tokens
Context = Annotated[int, Field(gt=0, le=1 << 28)]  # in tokens; the longest published have 10 million
Factor = Annotated[float, Field(gt=0, le=1e6)]  # float32 holds its square and cube
Epsilon = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]


class Data(BaseModel):
    """A frozen record that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class _Norm(Data):
    """Normalization of the residual stream."""

    eps: Epsilon = Field(1e-5, description="Added to the variance, or to the mean square, inside the root.")
    placement: Literal["pre", "post", "sandwich", "reordered", "parallel"] = Field(
        "pre",
        description="pre: x + f(norm x), and a last norm. post: norm(x + f(x)). sandwich: x + norm(f(norm x)), and a last norm. "
        "reordered: x + norm(f(x)), and a last norm (OLMo 2). parallel: all sublayers of a block read the same x, "
        "x + f(norm x) + g(norm x), and a last norm (GPT-NeoX).",
    )
    first: bool = Field(True, description="pre: whether the first attention of a stack has a norm, too (ModernBERT: no).")

    @model_validator(mode="after")
    def _check_first(self) -> "_Norm":
        if not self.first and self.placement != "pre":
            raise ValueError(f"norm.first is false, but with the placement {self.placement} no first norm can be left out")
        return self


class LayerNormConfig(_Norm):
    """LayerNorm: mean, variance, weight and bias (arXiv 1607.06450)."""

    kind: Literal["layer"]
    bias: bool = Field(True, description="Whether norms have a bias.")


class RMSNormConfig(_Norm):
    """RMSNorm: the mean square alone, and a weight (arXiv 1910.07467)."""

    kind: Literal["rms"]
    unit_offset: bool = Field(False, description="The weight is stored minus one, so that 0 is neutral (Gemma).")


NormConfig = Annotated[LayerNormConfig | RMSNormConfig, Field(discriminator="kind")]


class Relative(Data):
    """A learned number for each head and range of distances, added to the scores of every layer of a stack (T5, arXiv 1910.10683)."""

    kind: Literal["relative"]
    buckets: int = Field(
        32, ge=4, le=1 << 16, description="Number of buckets: half of them hold one distance each, the others increasingly wide ranges."
    )
    max_distance: Distance = Field(128, gt=1, description="All distances from this one on share the last bucket.")


class Learned(Data):
    """One learned vector for each position, added to the embeddings (GPT, BERT)."""

    kind: Literal["learned"]
    offset: int = Field(
        0, ge=0, le=1 << 20, description="Rows of the table before that of the first position (RoBERTa 2: its padding has the row 1)."
    )
    relative: Relative | None = Field(None, description="A bias of relative positions besides (MPNet); null: none.")


class Sinusoidal(Data):
    """Sine and cosine of the position at geometric wavelengths, added to the embeddings (arXiv 1706.03762)."""

    kind: Literal["sinusoidal"]
    layout: Literal["interleaved", "halves"] = Field(
        "halves", description="interleaved: alternating sines and cosines, as in the paper. halves: all sines, then all cosines (Marian)."
    )


class LinearScaling(Data):
    """All wavelengths are multiplied by the same factor (arXiv 2306.15595)."""

    kind: Literal["linear"]
    factor: Factor = Field(description="How many times longer the context is than that of pretraining.")


class YarnScaling(Data):
    """Long wavelengths are multiplied, short ones kept, and the rotated vectors lengthened (YaRN, arXiv 2309.00071)."""

    kind: Literal["yarn"]
    factor: Factor = Field(description="How many times longer the context is than original_context_length.")
    beta_fast: Factor = Field(32.0, description="Pairs that turn more often than this in the original context are kept.")
    beta_slow: Factor = Field(1.0, description="Pairs that turn less often than this in the original context are multiplied by factor.")
    attention_factor: Factor | None = Field(None, description="Multiplies rotated queries and keys; null: 0.1 ln(factor) + 1.")
    original_context_length: Context = Field(description="The context of pretraining, in tokens.")


class WavelengthScaling(Data):
    """Longer wavelengths for a longer context (Llama 3.1, arXiv 2407.21783)."""

    kind: Literal["llama3"] = "llama3"
    factor: Factor = Field(description="How many times longer the context is than original_context_length.")
    low_freq_factor: Factor = Field(1.0, description="Wavelengths above original_context_length / this are multiplied by factor.")
    high_freq_factor: Factor = Field(
        4.0, description="Wavelengths below original_context_length / this are kept; between the two limits they are interpolated."
    )
    original_context_length: Context = Field(description="The context of pretraining, in tokens.")

    @model_validator(mode="after")
    def _check_factors(self) -> "WavelengthScaling":
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(f"low_freq_factor {self.low_freq_factor} is not below high_freq_factor {self.high_freq_factor}")
        return self


PairFactors = Annotated[list[Factor], Field(min_length=1, max_length=1 << 19)]


class LongRopeScaling(Data):
    """Each pair's wavelength is multiplied by a factor of its own, of two sets: that of short texts, or of long ones (arXiv 2402.13753)."""

    kind: Literal["longrope"]
    short_factors: PairFactors = Field(description="Of each pair that is rotated, in texts of at most original_context_length tokens.")
    long_factors: PairFactors = Field(description="Of each pair that is rotated, in longer texts: at all of their tokens.")
    attention_factor: Factor = Field(1.0, description="Multiplies rotated queries and keys, in texts of any length.")
    original_context_length: Context = Field(
        description="The context of pretraining, in tokens; no text that is generated grows beyond it."
    )


Scaling = Annotated[LinearScaling | YarnScaling | WavelengthScaling | LongRopeScaling, Field(discriminator="kind")]
Base = Annotated[float, Field(gt=0, le=1e12)]


class Rotary(Data):
    """Rotation of queries and keys by their position (RoFormer, arXiv 2104.09864)."""

    kind: Literal["rotary"]
    theta: Base = Field(10_000.0, description="Base of the wavelengths.")
    scaling: Scaling | None = Field(None, description="The scaling of the wavelengths for a longer context; null: none.")
    local_theta: Base | None = Field(
        None, description="Base in layers with a window, where wavelengths are not scaled (Gemma 3); null: all layers are alike."
    )
    layers: list[bool] = Field(
        [True],
        min_length=1,
        max_length=MAX_LAYERS,
        description="Whether a layer rotates at all. One value per layer, repeated: [true, true, true, false] (SmolLM3).",
    )
    fraction: float = Field(1.0, gt=0, le=1, description="Part of each head that is rotated; the rest has no position (GPT-NeoX).")

    @model_validator(mode="before")
    @classmethod
    def _name_scaling(cls, values: Any) -> Any:
        """Read a scaling without a kind, which in older files is Llama 3.1's."""
        scaling = values.get("scaling") if isinstance(values, dict) else None
        return values | {"scaling": {"kind": "llama3", **scaling}} if isinstance(scaling, dict) else values

    def rotated(self, head_dim: int) -> int:
        """Return how many of a head's numbers are rotated."""
        return int(head_dim * self.fraction)


class Disentangled(Data):
    """Scores of a token with a distance besides those of two tokens, in both directions, by learned vectors of distances (DeBERTa v3)."""

    kind: Literal["disentangled"]
    buckets: int = Field(256, ge=4, le=1 << 16, description="Vectors of each direction: the first half for one distance each.")
    max_distance: Distance = Field(512, gt=1, description="The distance at which the last vector is reached.")


Position = Annotated[Learned | Sinusoidal | Rotary | Relative | Disentangled, Field(discriminator="kind")]


class EmbeddingConfig(Data):
    """The processing of token vectors before the first block."""

    scale: bool = Field(False, description="Multiply the embeddings by the root of dim (arXiv 1706.03762, Gemma).")
    norm: bool = Field(False, description="A norm over the sum of all embeddings (BERT).")
    dim: Width | None = Field(
        None, description="Width of all these vectors, which a matrix then widens to that of the residual stream (ELECTRA); null: dim."
    )
    segments: Width | None = Field(None, description="Segment vectors, which distinguish the texts of a pair (BERT has 2); null: none.")


class AttentionConfig(Data):
    """The attention, apart from its heads."""

    qkv_bias: bool = Field(False, description="A bias on the query, key and value projections.")
    out_bias: bool = Field(False, description="A bias on the output projection.")
    scale: Factor | None = Field(None, description="Multiplies the scores; null: 1 / sqrt(head_dim). T5 has 1.")
    softcap: Factor | None = Field(None, description="Scores become cap * tanh(score / cap) (Gemma 2); null: no cap.")
    qk_norm: Literal["head", "projection"] | None = Field(
        None,
        description="A norm on queries and keys before their rotation: over each head, whose heads share its weights (Qwen 3), or over "
        "the whole projection (OLMo 2); null: none.",
    )
    windows: list[Distance | None] = Field(
        [None],
        min_length=1,
        max_length=MAX_LAYERS,
        description="Tokens to which a token attends backwards, itself included, and in an encoder also forwards; null: all. "
        "One value per layer, repeated: [4096, null].",
    )


class ExpertsConfig(Data):
    """Many MLPs, the experts, of which a router chooses a few for each token (Shazeer et al. 2017, arXiv 1701.06538)."""

    count: int = Field(ge=2, le=1 << 12, description="Experts of a layer.")
    active: int = Field(ge=1, le=1 << 12, description="Experts that compute each token: those with the largest probabilities.")
    hidden_dim: HiddenWidth | None = Field(None, description="Width inside an expert; null: the model's hidden_dim.")
    normalized: bool = Field(
        True, description="Divide the probabilities of the chosen experts, which weight their outputs, by their sum (OLMoE: no)."
    )
    layers: list[bool] = Field(
        [True],
        min_length=1,
        max_length=MAX_LAYERS,
        description="Whether a layer has experts; the others have one MLP of the model's hidden_dim. One value per layer, repeated.",
    )

    @model_validator(mode="after")
    def _check_active(self) -> "ExpertsConfig":
        if self.active > self.count:
            raise ValueError(f"mlp.experts.active {self.active} is above mlp.experts.count {self.count}")
        return self


class MlpConfig(Data):
    """The feed-forward sublayer, applied at each position on its own."""

    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = Field(description="gelu is the exact (erf) form.")
    gated: bool = Field(False, description="down(activation(gate x) * up x) instead of down(activation(up x)).")
    bias: bool = Field(False, description="A bias on each of its projections.")
    experts: ExpertsConfig | None = Field(None, description="A mixture of experts, each such an MLP; null: one MLP for all tokens.")


class LanguageModelHeadConfig(Data):
    """A logit for each entry of the vocabulary."""

    kind: Literal["lm"] = "lm"
    tied: bool = Field(description="Whether the output matrix is the token embedding.")
    bias: bool = Field(False, description="A bias for each entry (Marian).")
    scale: Factor | None = Field(None, description="Multiplies the hidden states (T5 1.0: 1 / sqrt(dim)); null: 1.")
    softcap: Factor | None = Field(None, description="Logits become cap * tanh(logit / cap) (Gemma 2); null: no cap.")
    choices: bool = Field(False, description="Add a score for the whole sequence, to choose among several (GPT).")


class MaskedLanguageModelHeadConfig(Data):
    """A logit for each entry of the vocabulary, after a dense layer with the MLP's activation and a norm; with a bias (BERT)."""

    kind: Literal["masked_lm"]
    tied: bool = Field(description="Whether the output matrix is the token embedding.")
    dense_bias: bool = Field(True, description="A bias of the dense layer.")
    next_sentence: bool = Field(
        False, description="Add an output at the first token that predicts whether the second text follows the first."
    )


class ClassesHeadConfig(Data):
    """A logit for each class of a whole text, or the text's value if there is one class."""

    kind: Literal["classes"]
    count: Rows = Field(description="Classes; 1: a number (regression, a reward).")
    pool: Literal["first", "last", "mean"] = Field(
        description="Read at the first token, at the last one that is not padding, or as the mean of all that are not."
    )
    dense: Literal["tanh", "relu", "gelu", "normed"] | None = Field(
        None,
        description="A dense layer before the output layer, with this activation (BERT tanh, DistilBERT relu, ELECTRA gelu). normed: "
        "without a bias, with the MLP's activation and a norm (ModernBERT).",
    )
    bias: bool = Field(False, description="A bias for each class.")


class TagsHeadConfig(Data):
    """A logit for each tag, at every token."""

    kind: Literal["tags"]
    count: Rows = Field(description="Tags.")
    dense: Literal["normed"] | None = Field(None, description="A dense layer before the output layer, as in a head for classes.")


class SpansHeadConfig(Data):
    """Two logits at every token: for an answer that begins there, and for one that ends there."""

    kind: Literal["spans"]
    dense: Literal["normed"] | None = Field(None, description="A dense layer before the output layer, as in a head for classes.")


class NoHeadConfig(Data):
    """No head: the model returns hidden states."""

    kind: Literal["none"]
    pooler: bool = Field(False, description="Add a vector for the whole text: a dense layer with tanh on the first token's state (BERT).")


HeadConfig = Annotated[
    LanguageModelHeadConfig | MaskedLanguageModelHeadConfig | ClassesHeadConfig | TagsHeadConfig | SpansHeadConfig | NoHeadConfig,
    Field(discriminator="kind"),
]


class DropoutConfig(Data):
    """Probabilities during training. Attention dropout rules out the fused kernel: on a CPU, attention takes 1.5 to 7 times as long."""

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
        description="normal: all matrices with std. fan_in: uniform, variance 1 / input width (2017). by_width: normal, by widths (T5).",
    )
    std: float = Field(0.02, gt=0, le=1e30, description="Standard deviation of the normal from which matrices are drawn.")
    residual_scaling: bool = Field(
        False, description="Divide the std of the matrices that write to the residual stream by sqrt(2 * layers) (GPT-2)."
    )


class RoutingConfig(Data):
    """The losses that train the routers of a mixture of experts besides the objective's own. Models without experts have none."""

    balance: float = Field(
        0.01, ge=0, le=1e6, description="Weight of the loss that is smallest if all experts get equally many tokens; 0: without it."
    )
    z_loss: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="Weight of the mean square of the log of the sum of the routers' exponentials (OLMoE); 0: without it.",
    )


class ModelConfig(Data):
    """The whole description of a model: all that is needed to build it, and nothing else."""

    vocab_size: Rows = Field(description="Rows of the embedding; left out, the tokenizer's size.")
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
    routing: RoutingConfig | None = Field(None, description="The losses of a mixture of experts; null: its defaults.")

    @model_validator(mode="before")
    @classmethod
    def _fill_widths(cls, values: Any) -> Any:
        """Derive null widths from the others, so that a preset with another dim stays in proportion; by default the head is an LM head."""
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
            values["hidden_dim"] = -(-int(8 * dim / 3) // 256) * 256 if gated else 4 * dim
        if values.get("routing") is None and isinstance(mlp, dict | MlpConfig) and dict(mlp).get("experts") is not None:
            values["routing"] = {}
        return values

    @property
    def tied(self) -> bool:
        """Whether the token embedding is also the output matrix."""
        return isinstance(self.head, LanguageModelHeadConfig | MaskedLanguageModelHeadConfig) and self.head.tied

    @property
    def final_norm(self) -> bool:
        """Whether a stack ends in a norm: needed if the last sublayer does not normalize its sum."""
        return self.norm.placement != "post"

    @property
    def position_rows(self) -> int:
        """The rows of the table of learned positions; 0: there is none."""
        return self.context_length + self.position.offset if self.position.kind == "learned" else 0

    @property
    def adds_to_scores(self) -> bool:
        """Whether positions add to the scores of the attention, for which the fast kernels have no place."""
        return self.relative is not None or self.position.kind == "disentangled"

    @property
    def embeds_apart(self) -> bool:
        """Whether encoder and decoder have positions and norms of their own for their embeddings."""
        return bool(self.encoder_layers and self.decoder_layers and (self.position_rows or self.embedding.norm))

    @property
    def embedding_dim(self) -> int:
        """The width of the token vectors."""
        return self.embedding.dim or self.dim

    @property
    def relative(self) -> Relative | None:
        """The bias of relative positions, alone or beside learned vectors; None: there is none."""
        return self.position.relative if self.position.kind == "learned" else self.position if self.position.kind == "relative" else None

    def window(self, layer: int) -> int | None:
        """Return how many positions a query of this layer sees backwards (an encoder's also forwards), its own included; None: all."""
        return self.attention.windows[layer % len(self.attention.windows)]

    def rotation(self, layer: int) -> Literal["global", "local"] | None:
        """Return whether this layer rotates queries and keys by theta or by local_theta; None: not at all."""
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
        """Whether a layer has one MLP for all tokens."""
        return self.encoder_layers > 0 or not all(map(self.has_experts, range(self.decoder_layers)))

    @property
    def active_hidden_dim(self) -> int:
        """The number of inner values with which an MLP computes a token, over its chosen experts, in the layer with the most."""
        sparse = self.mlp.experts.active * self.expert_dim if self.mlp.experts else 0
        return max(sparse, self.hidden_dim if self.has_mlp else 0)

    @property
    def period(self) -> int:
        """The number of layers after which they are alike again."""
        of_rotation = len(self.position.layers) if isinstance(self.position, Rotary) else 1
        return math.lcm(len(self.attention.windows), of_rotation, len(self.mlp.experts.layers) if self.mlp.experts else 1)

    @model_validator(mode="after")
    def _check_stacks(self) -> "ModelConfig":
        if not self.encoder_layers and not self.decoder_layers:
            raise ValueError("a model needs encoder_layers, decoder_layers, or both")
        if self.position.kind == "sinusoidal" and self.dim % 2:
            raise ValueError(f"dim {self.dim} is odd; sinusoidal positions come in pairs, so it must be even")
        return self

    @model_validator(mode="after")
    def _check_experts(self) -> "ModelConfig":
        if self.mlp.experts is None:
            if self.routing is not None:
                raise ValueError("routing is for a mixture of experts, but mlp.experts is null; remove it")
        elif self.encoder_layers:
            raise ValueError("a mixture of experts is for a decoder alone; remove mlp.experts or encoder_layers")
        elif not any(map(self.has_experts, range(self.decoder_layers))):
            raise ValueError("mlp.experts.layers gives no layer experts; make one of its values true, or remove mlp.experts")
        return self

    @model_validator(mode="after")
    def _check_embedding(self) -> "ModelConfig":
        if self.embedding.dim is not None and self.head.kind == "lm":
            raise ValueError("embedding.dim is for encoders: the head of a language model has no layer from dim to it; remove it")
        return self

    @model_validator(mode="after")
    def _check_relative(self) -> "ModelConfig":
        relative = self.position if self.position.kind == "disentangled" else self.relative
        if relative is None:
            return self
        buckets, distance = relative.buckets, relative.max_distance
        if relative.kind == "disentangled" and self.decoder_layers:
            raise ValueError("disentangled positions are for an encoder alone; remove decoder_layers")
        if distance <= buckets // 2:
            raise ValueError(f"position.max_distance {distance} is not above {buckets // 2}: shorter distances have a bucket each")
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
