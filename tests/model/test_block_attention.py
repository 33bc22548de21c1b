"""Attention in blocks: where it is used, and that its rule is the dense mask. Its kernel needs a GPU; PyTorch computes its formula here."""

import pytest
import torch
from torch.nn.attention import flex_attention as flex

from tfkit.engine.inference.attended_text import record_weights
from tfkit.model import block_attention
from tfkit.model.attention import attend, supports_blocks
from tfkit.model.block_attention import attend_blocks, block_mask, dense_mask
from tfkit.model.config import ModelConfig
from tfkit.model.masks import Mask, Positions
from tfkit.model.transformer import build

CPU = torch.device("cpu")
DOCUMENTS = torch.tensor([[0] * 100 + [1] * 28 + [2] * 128, [0] * 40 + [1] * 216])
PACKED = Positions(256, 0, CPU, None, DOCUMENTS)
ONE = Positions(256, 0, CPU, None, None)
MASKS = {
    "documents": Mask(PACKED, True),
    "documents-both-ways": Mask(PACKED, False),
    "window": Mask(ONE, True, 37),
    "window-both-ways": Mask(ONE, False, 37),
    "documents-and-window": Mask(PACKED, True, 19),
}


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(block_attention, "_compiled", lambda function: function)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.usefixtures("uncompiled")
def test_the_rule_is_the_dense_mask(mask: Mask) -> None:
    dense, blocks = mask.dense(), block_mask(mask)
    assert torch.equal(dense_mask(blocks), dense)
    queries, keys, values = (torch.randn(2, heads, 256, 16, generator=torch.Generator().manual_seed(heads)) for heads in (6, 2, 3))
    values = values[:, :2]
    found = attend_blocks(queries, keys, values, blocks, 0.3)
    torch.testing.assert_close(found, attend(queries, keys, values, dense, 0.0, scale=0.3), rtol=0, atol=2e-6)


@pytest.mark.usefixtures("uncompiled")
def test_blocks_that_nobody_sees_are_left_out() -> None:
    assert block_mask(MASKS["documents"]).sparsity() == 37.5  # of eight blocks: those above the diagonal, and one of the first row


def test_where_blocks_are_taken() -> None:
    asked = {"mask": MASKS["documents"], "device": "cuda", "dtype": torch.bfloat16, "dropout": 0.0, "plain_scores": True}
    for change in ({}, {"dtype": torch.float16}, {"mask": Mask(ONE, True, 37)}):
        assert supports_blocks(**asked | change)
    cut, padded = DOCUMENTS[:, :255], torch.ones(2, 256, dtype=torch.bool)
    masks = [Mask(ONE, True), Mask(ONE, False), Mask(ONE, True, 256)]  # which the fused kernel has; the last cuts nothing
    masks += [Mask(Positions(255, 0, CPU, None, cut), True), Mask(Positions(256, 0, CPU, padded, DOCUMENTS), True)]
    masks += [Mask(Positions(128, 128, CPU, None, None), True, 37)]  # after a cache
    others = [{"device": "cpu"}, {"device": "mps"}, {"dtype": torch.float32}, {"dropout": 0.1}, {"plain_scores": False}]
    for change in [*others, *({"mask": mask} for mask in masks)]:
        assert not supports_blocks(**asked | change), change


@pytest.mark.usefixtures("uncompiled")
def test_a_model_in_blocks_is_the_model_with_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"vocab_size": 11, "context_length": 256, "dim": 32, "num_heads": 2, "head_dim": 16, "decoder_layers": 3, "init": {"std": 0.3}}
    kinds = {"norm": {"kind": "rms"}, "mlp": {"activation": "silu", "gated": True}, "head": {"tied": True}, "position": {"kind": "rotary"}}
    model = build(ModelConfig.model_validate({**values, **kinds, "attention": {"windows": [None, 37]}}), 1)
    ids = torch.randint(11, (2, 256), generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def computed() -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        hidden = model(ids, document_ids=DOCUMENTS).hidden
        with record_weights(model) as layers:
            model(ids, document_ids=DOCUMENTS)
        return hidden, layers["decoder"]

    expected, recorded = computed()
    monkeypatch.setattr("tfkit.model.transformer.supports_blocks", lambda *_, **__: True)
    calls: list[int] = []
    monkeypatch.setattr("tfkit.model.attention.attend_blocks", lambda *words: calls.append(1) or attend_blocks(*words))
    found, in_blocks = computed()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert len(calls) >= 3
    for (dense, seen), (blocks, seen_in_blocks) in zip(recorded, in_blocks, strict=True):
        assert seen_in_blocks[0, 0].sum().item() < 256 * 257 / 2
        assert torch.equal(seen, seen_in_blocks)
        torch.testing.assert_close(blocks, dense, rtol=0, atol=2e-5)
