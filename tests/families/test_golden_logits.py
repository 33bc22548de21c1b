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
from tfkit.hub.config_json import read_config
from tfkit.hub.names import expected_shapes

IDS = torch.tensor([[(7 * t + 3 * b + 5) % 83 + 3 for t in range(23)] for b in range(2)])  # (2, 23)
TOLERANCE = 1e-4 + 5e-5  # and the rounding of four printed decimals


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


BERT = {"model_type": "bert", "architectures": ["BertForPreTraining"], "vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 2}
BERT |= {"num_attention_heads": 3, "intermediate_size": 52, "max_position_embeddings": 40}
DISTILBERT = {"model_type": "distilbert", "vocab_size": 97, "dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 52}
DISTILBERT |= {"max_position_embeddings": 40}
GPT2 = {"model_type": "gpt2", "vocab_size": 97, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 40}
LLAMA = {"model_type": "llama", "vocab_size": 97, "hidden_size": 72, "intermediate_size": 100, "num_hidden_layers": 2}
LLAMA |= {"num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 64, "rms_norm_eps": 1e-5}
LLAMA3 = {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
MISTRAL = LLAMA | {"model_type": "mistral", "hidden_size": 48, "num_attention_heads": 6, "head_dim": 16, "sliding_window": 5}
GEMMA2 = MISTRAL | {"model_type": "gemma2", "num_hidden_layers": 3, "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 20}
GEMMA2 |= {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
T5 = {"model_type": "t5", "vocab_size": 97, "d_model": 20, "d_kv": 6, "d_ff": 36, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 3}
T5 |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}
MARIAN = {"model_type": "marian", "vocab_size": 97, "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 3}
MARIAN |= {"decoder_attention_heads": 3, "encoder_ffn_dim": 44, "decoder_ffn_dim": 44, "activation_function": "relu"}
MARIAN |= {"scale_embedding": True, "max_position_embeddings": 40}
# Of decoders: logits[0, -1, :3], logits[1, 5, :3], and the mean of all absolute logits. Of the others' input, the last five positions of
# row 1 are padding: an encoder has logits[1, 10, :3] and the mean of real tokens; a decoder beside it reads eleven ids, and has
# logits[1, 4, :3].
TIED, UNCAPPED = LLAMA | {"tie_word_embeddings": True}, GEMMA2 | {"attn_logit_softcapping": None, "final_logit_softcapping": None}
GATED = T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
GOLDEN: dict[str, tuple[dict[str, Any], tuple[float, ...], tuple[float, ...], float]] = {
    "gpt": (GPT2 | {"model_type": "openai-gpt"}, (3.6939, 1.1860, -0.4309), (2.4174, 2.3019, 2.4014), 1.1163),
    "gpt2": (GPT2, (-0.9493, -0.1306, 1.9246), (0.0385, -0.7053, 0.3924), 1.1079),
    "llama": (LLAMA, (-1.6194, 0.4306, 0.0368), (1.1242, -1.9249, 3.1327), 1.9221),
    "llama 3.1": (TIED | {"rope_theta": 1e4, "rope_scaling": LLAMA3}, (1.3131, -1.1809, 1.8654), (-1.0309, 0.1568, -0.0283), 2.0084),
    "mistral": (MISTRAL, (1.0004, -4.6089, 0.0122), (-1.9443, -2.2757, 1.4525), 1.6403),
    "gemma2": (GEMMA2, (-2.8826, -0.8966, -2.3348), (2.1956, 2.1839, 1.7745), 1.3160),
    "gemma2 without caps": (UNCAPPED, (-5.2088, -1.3942, -3.9842), (2.1328, 2.2406, 2.3509), 1.6586),
    "smollm2": (TIED | {"rope_theta": 1e5}, (-3.4525, -5.4637, 1.6936), (-1.2269, 3.8345, -0.8715), 1.9772),
    "bert": (BERT, (-1.2377, -1.6786, 1.3149), (-1.2733, -1.2177, 2.6575), 1.2292),
    "distilbert": (DISTILBERT, (-0.9450, 0.1284, 1.6267), (1.7608, -1.1433, 1.8569), 1.2028),
    "t5 1.0": (T5, (-0.1854, 0.2836, 0.1777), (-0.1633, 0.0557, 0.2116), 0.2457),
    "t5 1.1": (GATED, (0.6135, 1.2045, -0.9147), (-0.7147, 0.7683, -2.0944), 1.0315),
    "transformer of 2017": (MARIAN, (-2.1206, -2.5307, -0.4332), (-1.4781, -1.0526, -0.4190), 1.2105),
}


def test_the_mix_itself() -> None:
    assert crc32(b"transformer.wte.weight") == 3024614401
    expected = [0.35079031, 0.44424654, -0.05959134, -0.23198145]
    assert mixed("transformer.wte.weight", (97, 24))[0, :4] == pytest.approx(expected, abs=2e-8)  # float32 and the printed digits


@pytest.mark.parametrize(("config", "last", "middle", "mean"), GOLDEN.values(), ids=GOLDEN)
@torch.no_grad()
def test_golden_logits(tmp_path: Path, config: dict[str, Any], last: tuple[float, ...], middle: tuple[float, ...], mean: float) -> None:
    """The names of the file's tensors are ours, but the numbers depend on each of them."""
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    neutral = 0.0 if config["model_type"] == "gemma2" else 1.0
    shapes = expected_shapes(*read_config(config, tmp_path))
    save_file({name: mixed(name, shape, neutral) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    model = load(tmp_path).model
    real = torch.ones_like(IDS, dtype=torch.bool)
    if model.encoder is None:
        output, place = model(IDS), 5
    else:
        real[1, -5:] = False
        targets = {} if model.decoder is None else {"decoder_input_ids": IDS[:, :11]}
        output, place = model(IDS, padding_mask=real, **targets), 4 if targets else 10
    counted = output.logits[real] if output.logits.shape[:2] == real.shape else output.logits
    assert output.logits[0, -1, :3].tolist() == pytest.approx(last, abs=TOLERANCE)
    assert output.logits[1, place, :3].tolist() == pytest.approx(middle, abs=TOLERANCE)
    assert float(counted.abs().mean()) == pytest.approx(mean, abs=TOLERANCE)
    if config is BERT:
        assert output.extra_logits[1].tolist() == pytest.approx((0.3286, 1.2797), abs=TOLERANCE)
