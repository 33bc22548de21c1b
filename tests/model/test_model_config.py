"""The description of a model, and padding of rows with the mask of what is real."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_models import VOCABULARY, random_ids, tiny_config, tiny_model

from tfkit.model.padding import pad, padding_mask, real_tokens


@pytest.mark.parametrize("position", ["sinusoidal", "learned"])
def test_positions_are_as_wide_as_the_token_vectors(position: str) -> None:
    head = {"kind": "masked_lm", "tied": False}
    model = tiny_model("gpt2", position={"kind": position}, embedding={"dim": 6}, head=head, encoder_layers=2, decoder_layers=0)
    ids = random_ids(2, 5)
    assert model(ids).logits.shape == (2, 5, VOCABULARY)
    assert model.embedding(ids, torch.arange(5)).shape == (2, 5, 24)


RELATIVE = {"position": {"kind": "relative"}}
ENCODER = {"encoder_layers": 2, "decoder_layers": 0}


def test_null_widths_follow_from_the_others() -> None:
    plain = tiny_config("gpt2", hidden_dim=None, dim=48, num_heads=6)
    assert (plain.hidden_dim, plain.head_dim, plain.num_kv_heads) == (192, 8, 6)
    gated = tiny_config("llama", hidden_dim=None, dim=4096, num_heads=32, num_kv_heads=None)
    assert (gated.hidden_dim, gated.head_dim, gated.num_kv_heads) == (11008, 128, 32)


@pytest.mark.parametrize(("dim", "hidden_dim"), [(4096, 11008), (5120, 13824), (6656, 17920), (8192, 22016), (96, 256), (97, 512)])
def test_the_gated_width_is_llamas_rule(dim: int, hidden_dim: int) -> None:
    assert tiny_config("llama", dim=dim, num_heads=1, num_kv_heads=1, head_dim=8, hidden_dim=None).hidden_dim == hidden_dim


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gpt2", {"dim": 25}, "dim 25 is not divisible by num_heads 3"),
        ("llama", {"num_kv_heads": 4}, "num_heads 6 is not a multiple of num_kv_heads 4"),
        ("llama", {"head_dim": 5}, "head_dim 5 is odd"),
        ("gpt2", {"position": {"kind": "sinusoidal"}, "embedding": {"dim": 5}}, "embedding.dim 5 is odd"),
        ("llama", {"position": {"kind": "rotary", "fraction": 0.01}}, "position.fraction of head_dim"),
        ("gpt2", {"position": {"kind": "disentangled"}}, "disentangled positions are for an encoder alone; remove decoder_layers"),
        *(("gpt2", RELATIVE | {"attention": part}, "relative positions support neither") for part in ({"softcap": 2.0}, {"windows": [4]})),
        # The logarithm by which far distances are divided into buckets would be 0.
        ("gpt2", ENCODER | {"position": {"kind": "disentangled", "buckets": 8, "max_distance": 5}}, "max_distance 5 is not above 5"),
        ("gpt2", {"num_heads": 0}, "greater than 0"),
        ("llama", {"dim": 6 * 10**400, "hidden_dim": None}, "less than or equal to"),
        ("gpt2", {"n_embd": 24}, "Extra inputs"),
        ("gpt2", {"position": {"kind": "learned", "theta": 1e4}}, "Extra inputs"),
        ("gpt2", {"position": {"kind": "spiral"}}, "does not match any of the expected tags"),
        ("gpt2", {"dropout": {"attention": 1.0}}, "less than 1"),
        ("gpt2", {"norm": {"kind": "layer", "eps": float("nan")}}, "finite number"),
    ],
)
def test_what_is_no_model(name: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        tiny_config(name, **changes)


def test_a_description_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        tiny_config("gpt2").dim = 3


# -- padding

ROWS = [[5, 6, 7], np.array([8], np.int32), [9, 4]]


def test_rows_are_padded_on_the_right_or_on_the_left() -> None:
    assert pad(ROWS, -100).tolist() == [[5, 6, 7], [8, -100, -100], [9, 4, -100]]
    assert pad(ROWS, 0, left=True).tolist() == [[5, 6, 7], [0, 0, 8], [0, 9, 4]]
    assert pad(ROWS, 0).dtype == torch.int64


def test_the_mask_is_true_for_real_tokens() -> None:
    assert real_tokens(ROWS).tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    assert real_tokens(ROWS, left=True).tolist() == [[True, True, True], [False, False, True], [False, True, True]]
    assert torch.equal(padding_mask(ROWS), real_tokens(ROWS))
    assert padding_mask([[1, 2], [3, 4]]) is None  # rows of one length need no mask
