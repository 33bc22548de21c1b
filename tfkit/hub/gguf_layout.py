"""A model in the layout of GGUF, the file format of llama.cpp: the fields that describe the model, and its tensors under GGUF's names.

The `gguf` package maps Hugging Face's names to GGUF's. The layouts differ, too. GGUF adds 1 to the norm
weights of Gemma. It interleaves the rows of q_proj and k_proj for Llama and SmolLM3, since llama.cpp's rotary position embedding pairs
neighbouring rows, but Hugging Face's pairs rows that are half a head apart. It stacks the matrices of experts: in each layer, the gate
matrices of all experts are one tensor, the up matrices another, and the down matrices a third.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tfkit.errors import ModelError
from tfkit.families import FAMILIES, GGUF_ARCHITECTURES
from tfkit.families.rules import Family
from tfkit.hub.config_json import OWN_TYPE
from tfkit.hub.names import expected_shapes, from_foreign, to_foreign
from tfkit.hub.weights import Tensors
from tfkit.model.config import ModelConfig, Rotary
from tfkit.model.relative_position import rotary_frequencies

if TYPE_CHECKING:
    from gguf import GGUFWriter

_ROTATES_NEIGHBOURS = ("llama", "smollm3")
_TANH = ("gpt2", "gemma", "gemma2", "gemma3")  # architectures with the tanh form of GELU; the others have SiLU
_OPTIONAL_BIASES = ("llama", "gpt2", "qwen2")  # llama.cpp reads the biases of these architectures, if there are any, and of no others
_NOT_NORMALIZED = ("olmoe",)  # architectures in which llama.cpp does not divide the probabilities of the chosen experts by their sum
_WINDOWS = {"gemma2": 2, "gemma3": 6}  # n by architecture: every n-th layer has no sliding window, the others have one
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_THETA_GEMMA3 = 1e4  # the rotary theta that llama.cpp uses in layers with a window
_FACTORS = "rope_freqs.weight"  # a tensor with factors, by which llama.cpp divides the rotary frequencies
_LAYERS_27B = {"gemma2": 46, "gemma3": 62}  # llama.cpp takes a model of this depth for the 27B one, whose scores it scales differently


@dataclass(frozen=True)
class GgufLayout:
    """The GGUF layout of a model of a family."""

    family: Family  # the model's family, with rules changed so that they transpose no matrix
    config: ModelConfig
    architecture: str

    def describe(self, writer: "GGUFWriter") -> None:
        """Write the fields of the GGUF file that describe the architecture, such as the number of layers."""
        config, position = self.config, self.config.position
        writer.add_vocab_size(config.vocab_size)
        writer.add_context_length(config.context_length)
        writer.add_embedding_length(config.dim)
        writer.add_block_count(config.decoder_layers)
        writer.add_feed_forward_length(config.hidden_dim if config.has_mlp else config.expert_dim)
        if config.mlp.experts is not None:
            writer.add_expert_count(config.mlp.experts.count)
            writer.add_expert_used_count(config.mlp.experts.active)
            writer.add_expert_feed_forward_length(config.expert_dim)
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
            if position.scaling is not None and position.scaling.kind == "linear":
                from gguf import RopeScalingType

                writer.add_rope_scaling_type(RopeScalingType.LINEAR)
                writer.add_rope_scaling_factor(position.scaling.factor)
        if self.architecture == "gemma2":
            writer.add_attn_logit_softcapping(config.attention.softcap or 0.0)
            writer.add_final_logit_softcapping(getattr(config.head, "softcap", None) or 0.0)
        if self.architecture in _WINDOWS:
            writer.add_sliding_window(config.window(0) or config.context_length)

    def tensors(self, ours: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Convert the tensors `ours`, under tfkit's names, to GGUF's names and layout. Each is read only when it is yielded."""
        for name, parts in groupby(to_foreign(ours, self.family, self.config), lambda pair: self._name(pair[0])):
            tensors = [self._permute_rows(theirs, tensor.float(), 2) + self._offset(theirs) for theirs, tensor in parts]
            yield name, torch.stack(tensors) if name.endswith("_exps.weight") else tensors[0]
        position, head_dim = self.config.position, self.config.head_dim
        if position.kind == "rotary" and position.scaling is not None and position.scaling.kind == "llama3":
            plain = position.model_copy(update={"scaling": None})
            yield _FACTORS, rotary_frequencies(head_dim, plain) / rotary_frequencies(head_dim, position)

    def ours(self, read: Callable[[str], Tensor]) -> Tensors:
        """Convert the tensors of a GGUF file to tfkit's names and layout; `read` returns a tensor by its GGUF name."""
        names = [*expected_shapes(self.family, self.config)]
        half, read = self.config.head_dim // 2, lru_cache(maxsize=1)(read)

        def part(theirs: str) -> Tensor:
            expert = _EXPERT.search(theirs)
            return read(self._name(theirs))[int(expert[1])] if expert else read(self._name(theirs))

        foreign = {theirs: self._permute_rows(theirs, part(theirs) - self._offset(theirs), half) for theirs in names}
        return from_foreign(foreign, self.family, self.config)

    def _name(self, theirs: str) -> str:
        """Return the GGUF name of a tensor. All gate matrices of a layer's experts share a name, and so do all up and all down matrices."""
        base, _, part = _EXPERT.sub(".experts.", theirs).rpartition(".")
        return f"{self._names.get_name(base)}.{part}"

    @cached_property
    def _names(self) -> Any:
        import gguf

        kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == self.architecture)
        return gguf.get_tensor_name_map(kind, self.config.decoder_layers)

    def _permute_rows(self, theirs: str, tensor: Tensor, parts: int) -> Tensor:
        """Divide the rows of each head into `parts` equal parts, and interleave the parts; only q_proj and k_proj change. With 2 parts, the
        two halves of a head are interleaved; with head_dim / 2 parts, interleaved halves are separated again.
        """
        if self.architecture not in _ROTATES_NEIGHBOURS or not theirs.rpartition(".")[0].endswith(("q_proj", "k_proj")):
            return tensor
        return tensor.reshape(-1, parts, self.config.head_dim // parts, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)

    def _offset(self, theirs: str) -> float:
        return 1.0 if self.config.norm.kind == "rms" and self.config.norm.unit_offset and theirs.endswith("norm.weight") else 0.0


def gguf_layout(config: ModelConfig, family: str) -> GgufLayout:
    """Return the GGUF layout of a model. Raises ModelError for a model that llama.cpp would compute differently, or not at all."""
    architecture = GGUF_ARCHITECTURES.get(family)
    if architecture is None:
        own = " (which no class of transformers computes)" if family == OWN_TYPE else ""
        raise ModelError(f"models of the family {family}{own} are not exported as GGUF; those of {', '.join(GGUF_ARCHITECTURES)} are")
    if config.head.kind != "lm":
        raise ModelError(f"the model has a head of kind {config.head.kind}, but llama.cpp needs the head of a language model")
    if problem := _difference(config, architecture):
        raise ModelError(f"llama.cpp computes this model differently: {problem}")
    rules = tuple(replace(rule, transposed=False) for rule in FAMILIES[family].rules)  # matrices of GGUF are (out, in), like tfkit's
    return GgufLayout(replace(FAMILIES[family], rules=rules), config, architecture)


def _difference(config: ModelConfig, architecture: str) -> str | None:
    """Return the first difference between the model's computation and llama.cpp's, as a clause; None if there is none."""
    if config.mlp.activation != ("gelu_tanh" if architecture in _TANH else "silu"):
        return f"its activation is {config.mlp.activation}"
    biases = config.attention.qkv_bias or config.attention.out_bias or config.mlp.bias
    if biases and architecture not in _OPTIONAL_BIASES:
        return "its projections have biases"
    if (experts := config.mlp.experts) is not None and config.has_mlp:
        return "some of its layers are without a mixture of experts"
    if experts is not None and experts.normalized != (architecture not in _NOT_NORMALIZED):
        return f"its experts' probabilities are {'' if experts.normalized else 'not '}divided by their sum"
    if architecture == "olmoe" and config.num_kv_heads != config.num_heads:
        return "its heads share keys and values"
    own_scale = config.head_dim**-0.5 if config.attention.scale is None else config.attention.scale
    scale = (config.head_dim if config.decoder_layers != _LAYERS_27B.get(architecture) else config.dim / config.num_heads) ** -0.5
    if abs(own_scale - scale) > 1e-6:
        return f"its attention scores have the scale {own_scale:g}, whereas llama.cpp uses {scale:g}"
    for part, cap in (("attention scores", config.attention.softcap), ("logits", getattr(config.head, "softcap", None))):
        if (cap is None) == (architecture == "gemma2"):  # llama.cpp always caps in Gemma 2, never in others
            return f"its {part} have {'no' if cap is None else 'a'} soft cap"
    return _difference_of_layers(config, architecture)


def _difference_of_layers(config: ModelConfig, architecture: str) -> str | None:
    """Return the first difference from llama.cpp in the layers' windows or rotary positions, as a clause; None if there is none."""
    layers = range(config.decoder_layers)
    windows = [config.window(layer) for layer in layers]
    used = [window if window is not None and window < config.context_length else None for window in windows]
    if architecture in _WINDOWS:
        period = _WINDOWS[architecture]
        regular = [None if (layer + 1) % period == 0 else windows[0] for layer in layers]
        # In Gemma 3, layers with and without a window differ in theta, so windows matter even if they are as long as the context.
        if (any(used) or architecture == "gemma3") and (windows != regular or windows[0] is None):
            return f"its windows differ: llama.cpp gives all layers the same window, except every {period}th layer, which has none"
    elif any(used):
        return f"its attention has a window of {next(filter(None, used)):,} tokens, shorter than its context of {config.context_length:,}"
    position = config.position
    if not isinstance(position, Rotary):
        return None
    if position.scaling is not None and position.scaling.kind not in ("linear", *(["llama3"] if architecture == "llama" else [])):
        return f"its rotary positions have a scaling of kind {position.scaling.kind}"
    if position.local_theta not in (None, _THETA_GEMMA3):
        return f"layers with a window have the theta {position.local_theta:g}, whereas llama.cpp uses {_THETA_GEMMA3:g}"
    if architecture == "smollm3" and [config.rotation(layer) is None for layer in layers] != [layer % 4 == 3 for layer in layers]:
        return "not every fourth layer alone is without rotary positions"
    return None
