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
    elif name == "final_logits_bias":  # Marian's, with one row
        u = 0.2 * u
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


def bert_shapes() -> Shapes:
    b = "bert.embeddings"
    shapes: Shapes = {f"{b}.word_embeddings.weight": (97, 24), f"{b}.position_embeddings.weight": (40, 24)}
    shapes |= {f"{b}.token_type_embeddings.weight": (2, 24)} | norm(f"{b}.LayerNorm")
    for layer in range(2):
        h = f"bert.encoder.layer.{layer}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= linear(f"{h}.attention.{name}", 24, 24)
        shapes |= norm(f"{h}.attention.output.LayerNorm") | norm(f"{h}.output.LayerNorm")
        shapes |= linear(f"{h}.intermediate.dense", 52, 24) | linear(f"{h}.output.dense", 24, 52)
    shapes |= linear("bert.pooler.dense", 24, 24) | linear("cls.predictions.transform.dense", 24, 24)
    shapes |= norm("cls.predictions.transform.LayerNorm") | {"cls.predictions.bias": (97,)}
    return shapes | linear("cls.seq_relationship", 2, 24)


def distilbert_shapes() -> Shapes:
    b = "distilbert.embeddings"
    shapes: Shapes = {f"{b}.word_embeddings.weight": (97, 24), f"{b}.position_embeddings.weight": (40, 24)} | norm(f"{b}.LayerNorm")
    for layer in range(2):
        h = f"distilbert.transformer.layer.{layer}"
        for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
            shapes |= linear(f"{h}.attention.{name}", 24, 24)
        shapes |= norm(f"{h}.sa_layer_norm") | norm(f"{h}.output_layer_norm")
        shapes |= linear(f"{h}.ffn.lin1", 52, 24) | linear(f"{h}.ffn.lin2", 24, 52)
    return shapes | linear("vocab_transform", 24, 24) | norm("vocab_layer_norm") | {"vocab_projector.bias": (97,)}


def linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def norm(name: str) -> Shapes:
    return {f"{name}.weight": (24,), f"{name}.bias": (24,)}


BERT = {
    "model_type": "bert",
    "architectures": ["BertForPreTraining"],
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 52,
    "max_position_embeddings": 40,
}
DISTILBERT = {
    "model_type": "distilbert",
    "vocab_size": 97,
    "dim": 24,
    "n_layers": 2,
    "n_heads": 3,
    "hidden_dim": 52,
    "max_position_embeddings": 40,
}
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
LLAMA3 = {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
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


# The last five positions of row 1 are padding: logits[0, -1, :3], logits[1, 10, :3], and the mean of the real tokens' absolute logits
ENCODERS = {
    "bert": (BERT, bert_shapes(), (-1.2377, -1.6786, 1.3149), (-1.2733, -1.2177, 2.6575), 1.2292),
    "distilbert": (DISTILBERT, distilbert_shapes(), (-0.9450, 0.1284, 1.6267), (1.7608, -1.1433, 1.8569), 1.2028),
}


@pytest.mark.parametrize(("config", "shapes", "last", "tenth", "mean"), ENCODERS.values(), ids=ENCODERS)
@torch.no_grad()
def test_golden_logits_of_encoders(
    tmp_path: Path, config: dict[str, Any], shapes: Shapes, last: tuple[float, ...], tenth: tuple[float, ...], mean: float
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({name: mixed(name, shape) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    mask = torch.ones_like(IDS, dtype=torch.bool)
    mask[1, -5:] = False
    output = load(tmp_path).model(IDS, padding_mask=mask)
    assert output.logits[0, -1, :3].tolist() == pytest.approx(last, abs=TOLERANCE)
    assert output.logits[1, 10, :3].tolist() == pytest.approx(tenth, abs=TOLERANCE)
    assert float(output.logits[mask].abs().mean()) == pytest.approx(mean, abs=TOLERANCE)
    if config is BERT:
        assert output.extra_logits[1].tolist() == pytest.approx((0.3286, 1.2797), abs=TOLERANCE)


def t5_shapes(inputs: tuple[str, ...]) -> Shapes:
    shapes: Shapes = {"shared.weight": (97, 20)}
    for stack, layers in {"encoder": 2, "decoder": 3}.items():
        first = f"{stack}.block.0.layer.0.SelfAttention"
        shapes |= {f"{first}.relative_attention_bias.weight": (8, 3), f"{stack}.final_layer_norm.weight": (20,)}
        sublayers = ("SelfAttention", *(("EncDecAttention",) if stack == "decoder" else ()), "DenseReluDense")
        for layer in range(layers):
            for number, sublayer in enumerate(sublayers):
                h = f"{stack}.block.{layer}.layer.{number}"
                shapes[f"{h}.layer_norm.weight"] = (20,)
                if sublayer == "DenseReluDense":
                    shapes |= {f"{h}.{sublayer}.{name}.weight": (36, 20) for name in inputs} | {f"{h}.{sublayer}.wo.weight": (20, 36)}
                else:
                    shapes |= {f"{h}.{sublayer}.{name}.weight": (18, 20) for name in "qkv"} | {f"{h}.{sublayer}.o.weight": (20, 18)}
    return shapes


def marian_shapes() -> Shapes:
    shapes: Shapes = {"model.shared.weight": (97, 24), "final_logits_bias": (1, 97)}
    for stack, attentions in {"encoder": ("self_attn",), "decoder": ("self_attn", "encoder_attn")}.items():
        for layer in range(2):
            h = f"model.{stack}.layers.{layer}"
            for attention in attentions:
                shapes |= norm(f"{h}.{attention}_layer_norm")
                for name in ("q", "k", "v", "out"):
                    shapes |= linear(f"{h}.{attention}.{name}_proj", 24, 24)
            shapes |= linear(f"{h}.fc1", 44, 24) | linear(f"{h}.fc2", 24, 44) | norm(f"{h}.final_layer_norm")
    return shapes


T5 = {
    "model_type": "t5",
    "vocab_size": 97,
    "d_model": 20,
    "d_kv": 6,
    "d_ff": 36,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
}
MARIAN = {
    "model_type": "marian",
    "vocab_size": 97,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 44,
    "decoder_ffn_dim": 44,
    "activation_function": "relu",
    "scale_embedding": True,
    "max_position_embeddings": 40,
}
# The decoder reads the first eleven ids: logits[0, -1, :3], logits[1, 4, :3], and the mean of all absolute logits
ENCODER_DECODERS = {
    "t5 1.0": (T5, t5_shapes(("wi",)), (-0.1854, 0.2836, 0.1777), (-0.1633, 0.0557, 0.2116), 0.2457),
    "t5 1.1": (
        T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        t5_shapes(("wi_0", "wi_1")) | {"lm_head.weight": (97, 20)},
        (0.6135, 1.2045, -0.9147),
        (-0.7147, 0.7683, -2.0944),
        1.0315,
    ),
    "transformer of 2017": (MARIAN, marian_shapes(), (-2.1206, -2.5307, -0.4332), (-1.4781, -1.0526, -0.4190), 1.2105),
}


@pytest.mark.parametrize(("config", "shapes", "last", "fourth", "mean"), ENCODER_DECODERS.values(), ids=ENCODER_DECODERS)
@torch.no_grad()
def test_golden_logits_of_encoder_decoders(
    tmp_path: Path, config: dict[str, Any], shapes: Shapes, last: tuple[float, ...], fourth: tuple[float, ...], mean: float
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({name: mixed(name, shape) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    mask = torch.ones_like(IDS, dtype=torch.bool)
    mask[1, -5:] = False
    logits = load(tmp_path).model(IDS, padding_mask=mask, decoder_input_ids=IDS[:, :11]).logits
    assert logits[0, -1, :3].tolist() == pytest.approx(last, abs=TOLERANCE)
    assert logits[1, 4, :3].tolist() == pytest.approx(fourth, abs=TOLERANCE)
    assert float(logits.abs().mean()) == pytest.approx(mean, abs=TOLERANCE)
