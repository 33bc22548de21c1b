"""The arithmetic of a model against torch's own counter: every family, every head, frozen parts and updates."""

from typing import Any

import pytest
import torch
from tiny_training import LLAMA, fresh
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tfkit.adapters import add_lora, freeze
from tfkit.families import FAMILIES, PRESETS
from tfkit.model.config import ModelConfig
from tfkit.model.masks import Mask, Positions
from tfkit.model.transformer import Transformer
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.objective import Batch
from tfkit.recipe import model_config
from tfkit.recipe.schema.sections import LoraSection, ModelSection
from tfkit.training import flops
from tfkit.training.flops import ForwardShape, backward_flops, forward_flops, visible_pairs

ROWS, LENGTH, WRITTEN = 3, 12, 8


def tiny(family: str) -> ModelConfig:
    """The first preset of a family with small sizes; all else as it is."""
    preset = next(iter(FAMILIES[family].presets))
    config = ModelConfig.model_validate(PRESETS[preset][1])
    kv_heads = 2 if config.num_kv_heads < config.num_heads else 6
    small = {"dim": 24, "num_heads": 6, "num_kv_heads": kv_heads, "head_dim": 10, "hidden_dim": 40, "context_length": LENGTH}
    layers = {name: 2 for name in ("encoder_layers", "decoder_layers") if getattr(config, name)}
    window = {"attention": {"windows": [5, None]}} if config.attention.windows != [None] else {}
    experts = {"mlp": {"experts": {"count": 10}}} if config.mlp.experts is not None else {}
    return model_config(ModelSection.model_validate({"preset": preset, **small, **layers, **window, **experts}), 53)


def counted(model: Transformer, batch: Batch) -> tuple[float, float]:
    """FLOPs of forward and backward of all weights' products, and of attention, whose plain kernel computes whole squares."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        output = model(**batch.inputs())
        (CausalLM("joined").losses(model, output, batch)["lm"] if batch.labels.dim() == 2 else output.logits.sum()).backward()
    found = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    attention = found.pop("aten.bmm")
    return sum(found.values()), attention


def planned(model: Transformer, batch: Batch) -> tuple[float, float]:
    states = int((batch.labels >= 0).sum()) if batch.labels.dim() == 2 else 0
    shape = ForwardShape.of(batch, model.config, states)
    both = forward_flops(model, shape) + backward_flops(model, shape)
    return both.blocks + both.head, both.attention


def text(config: ModelConfig) -> Batch:
    """A batch whose labels are half of the positions."""
    ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    if not (config.encoder_layers and config.decoder_layers):
        return Batch(ids, torch.where(torch.arange(LENGTH) % 2 == 0, ids, -100))
    written = torch.zeros(ROWS, WRITTEN, dtype=torch.long)
    return Batch(ids, written, decoder_input_ids=written)


@pytest.fixture
def whole_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the pairs that the plain kernel computes."""
    monkeypatch.setattr(flops, "visible_pairs", lambda queries, keys, *, causal, window: queries * keys)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_as_torch_counts_it(family: str, whole_squares: None) -> None:
    model, batch = fresh(tiny(family).model_dump()), text(tiny(family))
    assert planned(model, batch) == pytest.approx(counted(model, batch), rel=2e-3)  # the bias of a vocabulary is not counted


@pytest.mark.parametrize("window", [None, 1, 5, 12, 40])
@pytest.mark.parametrize("causal", [True, False])
def test_the_visible_pairs_are_those_of_the_mask(window: int | None, causal: bool) -> None:
    mask = Mask(Positions(LENGTH, 0, torch.device("cpu"), None, None), causal, window).dense()
    assert visible_pairs(LENGTH, LENGTH, causal=causal, window=window) == mask.sum()


@pytest.mark.parametrize(
    ("head", "frozen", "targets"),
    [
        ({"kind": "classes", "count": 3, "pool": "last"}, [], []),  # which multiplies no vocabulary, as those of the next lines
        ({"kind": "classes", "count": 1, "pool": "first", "dense": "tanh"}, [], []),
        ({"kind": "tags", "count": 5}, [], []),
        ({"kind": "spans"}, [], []),
        (None, ["embedding.*", "decoder.blocks.0.*"], []),  # below the lowest parameter that is trained there is no gradient
        (None, ["decoder.blocks.1.*", "head.*"], []),
        (None, ["embedding.*", "decoder.*"], []),
        (None, ["*.q_proj.*", "*.o_proj.*"], []),
        (None, ["embedding.*", "decoder.blocks.0.self_attention.*"], []),
        *((None, [], targets) for targets in (["q_proj", "up_proj"], ["v_proj"], ["o_proj"], ["k_proj", "down_proj"])),
    ],
    ids=str,
)
def test_heads_frozen_parts_and_updates(head: dict[str, Any] | None, frozen: list[str], targets: list[str], whole_squares: None) -> None:
    model = fresh(LLAMA, **({"head": head} if head else {}))
    freeze(model, frozen)
    if targets:
        add_lora(model, LoraSection(rank=2, targets=targets), seed=1)
    batch = Batch(torch.zeros(ROWS, LENGTH, dtype=torch.long), torch.zeros(ROWS, dtype=torch.long)) if head else text(model.config)
    assert planned(model, batch) == pytest.approx(counted(model, batch), rel=1e-12)


def test_segments_alone_need_the_gradient_of_the_vectors_that_a_matrix_widens(whole_squares: None) -> None:
    model = fresh(tiny("electra").model_dump())
    freeze(model, [f"embedding.{part}.*" for part in ("tokens", "positions", "norm")])
    assert planned(model, text(model.config)) == pytest.approx(counted(model, text(model.config)), rel=2e-3)


def test_gpt2_small() -> None:
    """124,439,808 parameters, of which positions (786,432), norms and biases multiply no token; the tied matrix does, once."""
    config = ModelConfig.model_validate(PRESETS["gpt2"][1])
    matrices = 12 * 12 * 768**2 + 50257 * 768
    assert matrices == 123_532_032
    with torch.device("meta"):
        model = Transformer(config)
    shape = ForwardShape(1, 1024, 0, 1024)
    forward, backward = forward_flops(model, shape).total, backward_flops(model, shape).total
    assert (forward + backward) / 1024 == 6 * matrices + 6 * 12 * 768 * 1025
    assert backward == 2 * forward
