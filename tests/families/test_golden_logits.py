"""Logits of models whose weights an integer mix makes; two implementations gave these numbers. Needs no randomness and no transformers."""

import json
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tfkit.hub import load

IDS = torch.tensor([[(7 * t + 3 * b + 5) % 83 + 3 for t in range(23)] for b in range(2)])  # (2, 23)
TOLERANCE = 1e-4 + 5e-5  # and the rounding of four printed decimals

Shapes = dict[str, tuple[int, ...]]
NORMS = ("input_layernorm", "post_attention_layernorm")


def mixed(name: str, shape: tuple[int, ...], neutral: float = 1.0) -> NDArray[np.float32]:
    """Uniform in [-0.5, 0.5) by an integer hash of the element's place and the tensor's name; norms around `neutral`, biases smaller."""
    h = np.arange(1, np.prod(shape) + 1, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(crc32(name.encode()))
    h ^= h >> np.uint32(15)
    h *= np.uint32(2246822519)
    h ^= h >> np.uint32(13)
    h *= np.uint32(3266489917)
    h ^= h >> np.uint32(16)
    u = h / 2**32 - 0.5
    if len(shape) == 1:
        is_norm = name.endswith("weight") and ("norm" in name.lower() or ".ln_" in name)
        u = neutral + 0.5 * u if is_norm else 0.2 * u
    return u.reshape(shape).astype(np.float32)


def gpt2_shapes() -> Shapes:
    shapes: Shapes = {"transformer.wte.weight": (97, 24), "transformer.wpe.weight": (40, 24)}
    for layer in range(2):
        h = f"transformer.h.{layer}"
        shapes |= {f"{h}.{norm}.{part}": (24,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
        shapes |= {f"{h}.attn.c_attn.weight": (24, 72), f"{h}.attn.c_attn.bias": (72,)}
        shapes |= {f"{h}.attn.c_proj.weight": (24, 24), f"{h}.attn.c_proj.bias": (24,)}
        shapes |= {f"{h}.mlp.c_fc.weight": (24, 96), f"{h}.mlp.c_fc.bias": (96,)}
        shapes |= {f"{h}.mlp.c_proj.weight": (96, 24), f"{h}.mlp.c_proj.bias": (24,)}
    return shapes | {"transformer.ln_f.weight": (24,), "transformer.ln_f.bias": (24,)}


def gpt_shapes() -> Shapes:
    """GPT-2's blocks, other names for the tables, and no last norm."""
    tables = {"wte": "tokens_embed", "wpe": "positions_embed"}
    return {
        ".".join(tables.get(part, part) for part in name.split(".")): shape for name, shape in gpt2_shapes().items() if "ln_f" not in name
    }


def llama_shapes(tied: bool, dim: int = 72, queries: int = 72, keys: int = 24, layers: int = 2, norms: tuple[str, ...] = NORMS) -> Shapes:
    shapes: Shapes = {"model.embed_tokens.weight": (97, dim), "model.norm.weight": (dim,)}
    for layer in range(layers):
        h = f"model.layers.{layer}"
        shapes |= {f"{h}.{norm}.weight": (dim,) for norm in norms}
        shapes |= {f"{h}.self_attn.q_proj.weight": (queries, dim), f"{h}.self_attn.o_proj.weight": (dim, queries)}
        shapes |= {f"{h}.self_attn.{name}_proj.weight": (keys, dim) for name in "kv"}
        shapes |= {f"{h}.mlp.{name}_proj.weight": (100, dim) for name in ("gate", "up")}
        shapes |= {f"{h}.mlp.down_proj.weight": (dim, 100)}
    return shapes if tied else shapes | {"lm_head.weight": (97, dim)}


GPT2 = {"model_type": "gpt2", "vocab_size": 97, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 40}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 72,
    "intermediate_size": 100,
    "num_hidden_layers": 2,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
LLAMA3 = {
    "type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
MISTRAL = LLAMA | {"model_type": "mistral", "hidden_size": 48, "num_attention_heads": 6, "head_dim": 16, "sliding_window": 5}
GEMMA2 = MISTRAL | {
    "model_type": "gemma2",
    "num_hidden_layers": 3,
    "rms_norm_eps": 1e-6,
    "query_pre_attn_scalar": 20,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
}
GEMMA2_SHAPES = llama_shapes(
    tied=True, dim=48, queries=96, keys=48, layers=3, norms=(*NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")
)
# logits[0, -1, :3], logits[1, 5, :3], and the mean of all absolute logits
GOLDEN = {
    "gpt": (GPT2 | {"model_type": "openai-gpt"}, gpt_shapes(), (3.6939, 1.1860, -0.4309), (2.4174, 2.3019, 2.4014), 1.1163),
    "gpt2": (GPT2, gpt2_shapes(), (-0.9493, -0.1306, 1.9246), (0.0385, -0.7053, 0.3924), 1.1079),
    "llama": (LLAMA, llama_shapes(tied=False), (-1.6194, 0.4306, 0.0368), (1.1242, -1.9249, 3.1327), 1.9221),
    "llama 3.1": (
        LLAMA | {"tie_word_embeddings": True, "rope_theta": 1e4, "rope_scaling": LLAMA3},
        llama_shapes(tied=True),
        (1.3131, -1.1809, 1.8654),
        (-1.0309, 0.1568, -0.0283),
        2.0084,
    ),
    "mistral": (
        MISTRAL,
        llama_shapes(tied=False, dim=48, queries=96, keys=48),
        (1.0004, -4.6089, 0.0122),
        (-1.9443, -2.2757, 1.4525),
        1.6403,
    ),
    "gemma2": (GEMMA2, GEMMA2_SHAPES, (-2.8826, -0.8966, -2.3348), (2.1956, 2.1839, 1.7745), 1.3160),
    "gemma2 without caps": (
        GEMMA2 | {"attn_logit_softcapping": None, "final_logit_softcapping": None},
        GEMMA2_SHAPES,
        (-5.2088, -1.3942, -3.9842),
        (2.1328, 2.2406, 2.3509),
        1.6586,
    ),
    "smollm2": (
        LLAMA | {"tie_word_embeddings": True, "rope_theta": 1e5},
        llama_shapes(tied=True),
        (-3.4525, -5.4637, 1.6936),
        (-1.2269, 3.8345, -0.8715),
        1.9772,
    ),
}


def test_the_mix_itself() -> None:
    assert crc32(b"transformer.wte.weight") == 3024614401
    expected = [0.35079031, 0.44424654, -0.05959134, -0.23198145]
    assert mixed("transformer.wte.weight", (97, 24))[0, :4] == pytest.approx(expected, abs=2e-8)  # float32 and the printed digits


@pytest.mark.parametrize(("config", "shapes", "last", "fifth", "mean"), GOLDEN.values(), ids=GOLDEN)
@torch.no_grad()
def test_golden_logits(
    tmp_path: Path, config: dict[str, Any], shapes: Shapes, last: tuple[float, ...], fifth: tuple[float, ...], mean: float
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    neutral = 0.0 if config["model_type"] == "gemma2" else 1.0
    save_file({name: mixed(name, shape, neutral) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    logits = load(tmp_path).model(IDS).logits
    assert logits[0, -1, :3].tolist() == pytest.approx(last, abs=TOLERANCE)
    assert logits[1, 5, :3].tolist() == pytest.approx(fifth, abs=TOLERANCE)
    assert float(logits.abs().mean()) == pytest.approx(mean, abs=TOLERANCE)
