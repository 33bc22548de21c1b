"""How a model knows the order of its tokens: vectors that are added, rotations, or scores of distances."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tfkit.model.config.sizes import MAX_LAYERS, Context, Data, Distance, Factor


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
        0, ge=0, le=1 << 20, description="Rows of the table before the row of the first position (RoBERTa 2: padding has row 1)."
    )
    relative: Relative | None = Field(None, description="A bias of relative positions in addition (MPNet); null: none.")


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
    """Long wavelengths are multiplied by `factor`, short ones kept, and the rotated vectors lengthened (YaRN, arXiv 2309.00071)."""

    kind: Literal["yarn"]
    factor: Factor = Field(description="How many times longer the context is than original_context_length.")
    beta_fast: Factor = Field(32.0, description="Wavelengths of pairs that turn more often than this in the original context are kept.")
    beta_slow: Factor = Field(1.0, description="Wavelengths of pairs that turn less often than this are multiplied by factor.")
    attention_factor: Factor | None = Field(None, description="Multiplies rotated queries and keys; null: 0.1 ln(factor) + 1.")
    original_context_length: Context = Field(description="The context of pretraining, in tokens.")


class WavelengthScaling(Data):
    """Long wavelengths are multiplied by `factor`, short ones kept, and those between interpolated (Llama 3.1, arXiv 2407.21783)."""

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
    """Each pair's wavelength is multiplied by a factor of its own, from a set for short texts or one for long texts (arXiv 2402.13753)."""

    kind: Literal["longrope"]
    short_factors: PairFactors = Field(description="The factor of each rotated pair in texts of at most original_context_length tokens.")
    long_factors: PairFactors = Field(description="The factor of each rotated pair in longer texts, for all of their tokens.")
    attention_factor: Factor = Field(1.0, description="Multiplies rotated queries and keys, in texts of any length.")
    original_context_length: Context = Field(
        description="The context of pretraining, in tokens; a prompt within it is continued up to its end at most."
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
        description="Whether each layer rotates; a shorter list is repeated: [true, true, true, false] (SmolLM3).",
    )
    fraction: float = Field(1.0, gt=0, le=1, description="Fraction of each head that is rotated; the other elements have no position.")

    @model_validator(mode="before")
    @classmethod
    def _name_scaling(cls, values: Any) -> Any:
        """Set the kind of a scaling that has none, as in older files, to that of Llama 3.1."""
        scaling = values.get("scaling") if isinstance(values, dict) else None
        return values | {"scaling": {"kind": "llama3", **scaling}} if isinstance(scaling, dict) else values

    def rotated(self, head_dim: int) -> int:
        """Return how many of a head's numbers are rotated."""
        return int(head_dim * self.fraction)


class Disentangled(Data):
    """A learned vector for each bucket of distances; its products with query and key are added to their score (DeBERTa v3)."""

    kind: Literal["disentangled"]
    buckets: int = Field(256, ge=4, le=1 << 16, description="Number of vectors for each direction; half of them have one distance each.")
    max_distance: Distance = Field(512, gt=1, description="The distance at which the last vector is reached.")


Position = Annotated[Learned | Sinusoidal | Rotary | Relative | Disentangled, Field(discriminator="kind")]
