"""Qwen 3, its dense models (Yang et al. 2025, arXiv 2505.09388).

New compared with Qwen 2.5: each head's queries and keys are normed before they are rotated, which keeps the scores bounded, and no
projection has a bias. Heads are 128 wide in all sizes, also where dim / num_heads is not. Sizes as in the released base models.
"""

from dataclasses import replace
from typing import Any

from tfkit.families import llama, qwen2
from tfkit.families.rules import Rule, decoder_classes


def _size(dim: int, layers: int, heads: int, hidden_dim: int, context: int = 32768) -> dict[str, Any]:
    of_qwen3 = {
        "vocab_size": 151936,
        "context_length": context,
        "head_dim": 128,
        "position": {"kind": "rotary", "theta": 1e6},
        "norm": {"kind": "rms", "eps": 1e-6},
        "attention": {"qk_norm": "head"},
        "head": {"kind": "lm", "tied": dim < 4096},
    }
    return llama.size(dim, layers, heads, 8, hidden_dim, **of_qwen3)


PRESETS = {
    "qwen3-0.6b": _size(1024, 28, 16, 3072),
    "qwen3-1.7b": _size(2048, 28, 16, 6144),
    "qwen3-4b": _size(2560, 36, 32, 9728),
    "qwen3-8b": _size(4096, 36, 32, 12288),
    "qwen3-14b": _size(5120, 40, 40, 17408),
    "qwen3-32b": _size(5120, 64, 64, 25600, 40960),  # released only as a chat model
}

ARCHITECTURES = decoder_classes("Qwen3", "classes", "tags", "spans")
QK_NORMS = tuple(
    Rule(f"model.layers.{{i}}.self_attn.{name}_norm.weight", (f"decoder.blocks.{{i}}.self_attention.op.{name}_norm.weight",))
    for name in "qk"
)


def _from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    hf = qwen2.CLASS_DEFAULTS | {"head_dim": 128} | hf | {"mlp_bias": False}
    values = llama.from_hf(hf, ARCHITECTURES)
    values["attention"] |= {"qk_norm": "head", "windows": qwen2.windows(hf)}
    return values


FAMILY = replace(
    qwen2.FAMILY,
    name="qwen3",
    model_type="qwen3",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    rules=llama.RULES + QK_NORMS,
    from_hf=_from_hf,
    to_hf=lambda config: llama.to_hf(config, ("mlp_bias",)) | qwen2.window_fields(config),
)
