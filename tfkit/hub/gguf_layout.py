"""A model in the layout of GGUF, the files of llama.cpp: the fields that describe it, and its tensors under GGUF's names.

The `gguf` package maps Hugging Face's names to GGUF's. Two things differ from our layout: Gemma 2's norm weights are stored plus 1, and the
rows of Llama's q_proj and k_proj are interleaved, since llama.cpp rotates neighbours and Hugging Face halves.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tfkit.errors import ModelError
from tfkit.families import FAMILIES
from tfkit.families.rules import Family
from tfkit.hub.names import expected_shapes, from_foreign, to_foreign
from tfkit.hub.weights import Tensors
from tfkit.model.config import ModelConfig
from tfkit.model.position import rotary_frequencies

if TYPE_CHECKING:
    from gguf import GGUFWriter

_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "smollm2": "llama", "gemma2": "gemma2", "gpt2": "gpt2"}  # by our families
_FACTORS = "rope_freqs.weight"  # llama.cpp divides the rotary frequencies by these factors
_LAYERS_27B = 46  # llama.cpp recognizes Gemma 2 27B, whose scores have a different scale, by its number of layers


@dataclass(frozen=True)
class GgufLayout:
    """The GGUF layout of a model of one of our families."""

    family: Family  # its rules transpose nothing
    config: ModelConfig
    architecture: str

    def describe(self, writer: "GGUFWriter") -> None:
        """Write the fields that describe the architecture."""
        config, position = self.config, self.config.position
        writer.add_vocab_size(config.vocab_size)
        writer.add_context_length(config.context_length)
        writer.add_embedding_length(config.dim)
        writer.add_block_count(config.decoder_layers)
        writer.add_feed_forward_length(config.hidden_dim)
        writer.add_head_count(config.num_heads)
        writer.add_head_count_kv(config.num_kv_heads)
        if config.norm.kind == "rms":
            writer.add_layer_norm_rms_eps(config.norm.eps)
        else:
            writer.add_layer_norm_eps(config.norm.eps)
        if position.kind == "rotary":
            writer.add_key_length(config.head_dim)
            writer.add_value_length(config.head_dim)
            writer.add_rope_dimension_count(config.head_dim)
            writer.add_rope_freq_base(position.theta)
        if self.architecture == "gemma2":
            writer.add_attn_logit_softcapping(config.attention.softcap or 0.0)
            writer.add_final_logit_softcapping(getattr(config.head, "softcap", None) or 0.0)
            writer.add_sliding_window(config.window(0) or config.context_length)

    def tensors(self, ours: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors of a model under GGUF's names, each read only when it is yielded."""
        for theirs, tensor in to_foreign(ours, self.family, self.config):
            yield self._name(theirs), self._permute_rows(theirs, tensor.float(), 2) + self._offset(theirs)
        position, head_dim = self.config.position, self.config.head_dim
        if position.kind == "rotary" and position.scaling is not None:
            plain = position.model_copy(update={"scaling": None})
            yield _FACTORS, rotary_frequencies(head_dim, plain) / rotary_frequencies(head_dim, position)

    def ours(self, read: Callable[[str], Tensor]) -> Tensors:
        """Convert a file's tensors to ours; `read` returns a tensor by GGUF's name."""
        names = [*expected_shapes(self.family, self.config)]
        half = self.config.head_dim // 2
        foreign = {theirs: self._permute_rows(theirs, read(self._name(theirs)) - self._offset(theirs), half) for theirs in names}
        return from_foreign(foreign, self.family, self.config)

    def _name(self, theirs: str) -> str:
        base, _, part = theirs.rpartition(".")
        return f"{self._names.get_name(base)}.{part}"

    @cached_property
    def _names(self) -> Any:
        import gguf

        kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == self.architecture)
        return gguf.get_tensor_name_map(kind, self.config.decoder_layers)

    def _permute_rows(self, theirs: str, tensor: Tensor, parts: int) -> Tensor:
        """Interleave the `parts` of each head's rows in Llama's q_proj and k_proj: 2 interleaves the halves, E / 2 separates them again."""
        if self.architecture != "llama" or not theirs.rpartition(".")[0].endswith(("q_proj", "k_proj")):
            return tensor
        return tensor.reshape(-1, parts, self.config.head_dim // parts, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)

    def _offset(self, theirs: str) -> float:
        return 1.0 if self.config.norm.kind == "rms" and self.config.norm.unit_offset and theirs.endswith("norm.weight") else 0.0


def gguf_layout(config: ModelConfig, family: str) -> GgufLayout:
    """Return the layout of a model. Raises ModelError for a model that llama.cpp would compute differently, or not at all."""
    architecture = _ARCHITECTURES.get(family)
    if architecture is None:
        raise ModelError(f"models of the family {family} are not exported as GGUF; those of {', '.join(_ARCHITECTURES)} are")
    if config.head.kind != "lm":
        raise ModelError(f"the model has a head of kind {config.head.kind}, and llama.cpp needs that of a language model")
    if problem := _difference(config, architecture):
        raise ModelError(f"llama.cpp computes this model differently: {problem}")
    rules = tuple(replace(rule, transposed=False) for rule in FAMILIES[family].rules)  # GGUF's matrices are (out, in), as ours
    return GgufLayout(replace(FAMILIES[family], rules=rules), config, architecture)


def _difference(config: ModelConfig, architecture: str) -> str | None:
    """Return the first difference from llama.cpp's computation; None if there is none."""
    windows = [config.window(layer) for layer in range(config.decoder_layers)]
    used = [window if window is not None and window < config.context_length else None for window in windows]
    if architecture == "gemma2":
        alternating = [windows[0] if layer % 2 == 0 else None for layer in range(config.decoder_layers)]
        if any(used) and windows != alternating:
            return "its layers do not alternate between window and full attention, starting with a window"
        scale = (config.head_dim if config.decoder_layers != _LAYERS_27B else config.dim / config.num_heads) ** -0.5
        if config.attention.scale is not None and abs(config.attention.scale - scale) > 1e-6:
            return f"its attention scores have the scale {config.attention.scale:g}, whereas llama.cpp uses {scale:g}"
        return None
    if any(used):
        return f"its attention has a window of {next(filter(None, used)):,} tokens, shorter than its context of {config.context_length:,}"
    if config.mlp.activation != ("silu" if architecture == "llama" else "gelu_tanh"):
        return f"its activation is {config.mlp.activation}"
    return None
