"""A mixture of experts: what it computes, its gradients, its losses, and what follows from their sums and counts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_layouts import LLAMA_LAYOUT
from torch import Tensor
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from tfkit.adapters.lora import find_targets
from tfkit.errors import UsageError
from tfkit.families import PRESETS
from tfkit.model.answering_linear import can_pack, has_int8, pack, to_int8
from tfkit.model.config import ModelConfig
from tfkit.model.experts import Experts, active_numel, balance_loss, router_z_loss
from tfkit.model.transformer import Transformer, build, on_meta
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.companion import Companion
from tfkit.objectives.distillation import Distillation
from tfkit.objectives.objective import IGNORED, Batch
from tfkit.recipe.schema.objective_sections import CausalLMSection, DistillationSection
from tfkit.recipe.schema.optimizer_sections import AdamWSection
from tfkit.training.loss_module import LossModule
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights
from tfkit.training.step import Stepper

VALUES: dict[str, Any] = LLAMA_LAYOUT | {"vocab_size": 53, "context_length": 12, "decoder_layers": 3, "dim": 24, "hidden_dim": 40}
VALUES |= {"num_heads": 6, "num_kv_heads": 2, "init": {"std": 0.3}, "routing": {"balance": 0.5, "z_loss": 0.25}}
VALUES["mlp"] = LLAMA_LAYOUT["mlp"] | {"experts": {"count": 5, "active": 2, "hidden_dim": 16, "layers": [True, False]}}


def fresh(**changes: Any) -> Transformer:
    return build(ModelConfig.model_validate(VALUES | changes), seed=3)


def stepper(model: Transformer) -> Stepper:
    weights = Weights(model, torch.float32)
    optimizer = Optimizer(weights.trained, AdamWSection(lr=3e-3, eps=1e-3))
    return Stepper(LossModule(model, CausalLM()), weights, optimizer, device=torch.device("cpu"), seed=1)


def experts(normalized: bool = True) -> Experts:
    model = fresh(mlp=VALUES["mlp"] | {"experts": VALUES["mlp"]["experts"] | {"normalized": normalized}})
    return model.decoder.blocks[0].mlp.op


@pytest.mark.parametrize("normalized", [True, False])
def test_each_token_is_a_weighted_sum_of_its_likeliest_experts_with_its_gradients(normalized: bool) -> None:
    """By the formula, one token and expert at a time, in float64."""
    mixture = experts(normalized).double()
    x = torch.randn(2, 7, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def slow() -> Tensor:
        rows = []
        for token in x.reshape(-1, 24):
            probabilities = (mixture.router.weight @ token).float().softmax(0)
            best = probabilities.argsort(descending=True)[:2]
            total = probabilities[best].sum() if normalized else 1.0
            rows.append(sum(probabilities[one] / total * mixture.experts[int(one)](token) for one in best))
        return torch.stack(rows).view_as(x)

    routed: list[Tensor] = []
    fast = mixture(x, routed)
    torch.testing.assert_close(fast, slow(), rtol=1e-6, atol=1e-6)
    assert routed[0].shape == (2, 7, 5)
    weights = torch.linspace(-1, 1, 24, dtype=torch.float64)
    found, wanted = (torch.autograd.grad((out @ weights).sum(), [x, *mixture.parameters()]) for out in (fast, slow()))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_an_expert_without_tokens_has_a_gradient_of_zeros_and_computes_nothing_in_answers() -> None:
    mixture = experts()
    with torch.no_grad():
        mixture.router.weight[3] = 0.0
        mixture.router.weight[:3] = mixture.router.weight[3:4] + 1.0
    x = torch.rand(1, 4, 24)  # positive: the first three are always the likeliest
    mixture(x, []).sum().backward()
    for parameter in mixture.experts[3].parameters():
        assert not parameter.grad.any()
    called: list[int] = []
    for number, expert in enumerate(mixture.experts):
        expert.register_forward_hook(lambda *_, number=number: called.append(number))
    with torch.no_grad():
        mixture(x, [])
    assert set(called) < {0, 1, 2}


def test_the_same_bits_at_every_call() -> None:
    x = torch.randn(4, 12, 24, generator=torch.Generator().manual_seed(1))

    def gradients() -> list[Tensor]:
        mixture = experts()
        inputs = x.clone().requires_grad_()
        out = mixture(inputs, [])
        return [out, *torch.autograd.grad(out.square().sum(), [inputs, *mixture.parameters()])]

    first, *others = (gradients() for _ in range(3))
    assert all(torch.equal(one, other) for again in others for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize("active", [1, 2, 4])
@pytest.mark.parametrize("padded", [False, True])
def test_the_balancing_loss_of_a_row_and_a_layer_is_transformers(active: int, padded: bool) -> None:
    logits = torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(1)) * 2
    real = torch.ones(3, 9, dtype=torch.bool)
    if padded:
        real[0, :4] = real[2, 6:] = False
    wanted = [
        load_balancing_loss_func((row,), 5, active, mask[None] if padded else None) * int(mask.sum())
        for row, mask in zip(logits, real, strict=True)
    ]
    found = balance_loss([logits], active, real if padded else None)
    torch.testing.assert_close(found, torch.stack(wanted).sum())
    torch.testing.assert_close(balance_loss([logits, logits], active, real if padded else None), found)  # the mean over layers
    squares = logits.exp().sum(-1).log().square() * real
    torch.testing.assert_close(router_z_loss([logits], real if padded else None), squares.sum())


LENGTHS = st.lists(st.integers(1, 12), min_size=8, max_size=8)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(LENGTHS, st.sampled_from([1, 2, 4]))
def test_losses_and_gradients_do_not_depend_on_the_micro_batch(lengths: list[int], size: int) -> None:
    """Of rows of different lengths: an average of the micro-batches' balancing losses would differ."""
    ids = torch.randint(53, (8, 12), generator=torch.Generator().manual_seed(2))
    padding = torch.arange(12) < torch.tensor(lengths)[:, None]
    labels = torch.where(padding, ids, IGNORED)

    def rows(part: slice) -> Batch:
        return Batch(ids[part], labels[part], padding_mask=padding[part])

    whole, parts = stepper(fresh()), stepper(fresh())
    one = whole.take(1, [rows(slice(None))], 1.0)
    many = parts.take(1, [rows(slice(start, start + size)) for start in range(0, 8, size)], 1.0)
    assert one.losses.keys() == {"lm", "balance", "router_z"}
    assert many.losses == pytest.approx(one.losses, rel=1e-5)
    assert many.loss == pytest.approx(one.losses["lm"] + 0.5 * one.losses["balance"] + 0.25 * one.losses["router_z"], rel=1e-5)
    for name, tensor in whole.weights.master.items():
        torch.testing.assert_close(parts.weights.master[name], tensor, atol=2e-6, rtol=0, msg=name)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_routers_losses_reach_their_weights(checkpointing: bool) -> None:
    """Also where blocks are computed again in the backward pass; forwards without gradients do not count."""
    ids = torch.randint(53, (2, 12), generator=torch.Generator().manual_seed(2))

    def gradient(**routing: float) -> Tensor:
        model = fresh(routing=routing)
        model.decoder.activation_checkpointing = checkpointing
        module = LossModule(model, CausalLM())
        with torch.no_grad():
            model(ids)
        losses = module(Batch(ids, ids))
        assert losses.keys() == module.terms.keys() == module.counts(Batch(ids, ids)).keys()
        torch.stack([losses[term] * weight for term, weight in module.terms.items()]).sum().backward()
        return model.decoder.blocks[0].mlp.op.router.weight.grad

    without = gradient(balance=0.0)
    once, twice = (gradient(balance=weight) - without for weight in (0.5, 1.0))
    assert once.abs().max() > 1e-3
    torch.testing.assert_close(twice, 2 * once, rtol=1e-3, atol=1e-5)
    assert (gradient(balance=0.0, z_loss=1.0) - without).abs().max() > 1e-3


def test_a_pass_that_ran_out_of_memory_has_no_part_in_the_routers_losses() -> None:
    ids = torch.randint(53, (2, 12), generator=torch.Generator().manual_seed(2))
    batch, module = Batch(ids, ids), LossModule(fresh(), CausalLM())
    expected = module(batch)
    module.objective = _OutOfMemory()
    with pytest.raises(MemoryError):
        module(batch)
    module.objective = CausalLM()
    assert module(batch) == expected


class _OutOfMemory(CausalLM):
    """An objective whose memory ends after the forward pass of the model."""

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        super().loss(model, batch)
        raise MemoryError


class _BesideAValue(CausalLM):
    """A language model's objective with a companion that is trained in the same steps, as PPO's value model is."""

    def __init__(self, value: Transformer):
        super().__init__()
        self.value = value

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        own = super().loss(model, batch)
        return {"lm": own["lm"] + self.value(**batch.inputs()).hidden.square().sum()}


def test_the_routers_of_companions_have_no_losses() -> None:
    """Neither of one that is frozen, such as a teacher, nor of one that is trained: the terms are those of the model alone."""
    ids = torch.randint(53, (2, 12), generator=torch.Generator().manual_seed(2))
    batch, companion = Batch(ids, ids), build(ModelConfig.model_validate(VALUES), seed=4)
    section = DistillationSection(kind="distillation", teacher="t", of=CausalLMSection(kind="causal_lm"))
    alone = LossModule(fresh(), CausalLM())(batch)
    teacher = Distillation(section, CausalLM(), Companion("teacher", companion, "t", "a"))
    dense = VALUES | {"mlp": VALUES["mlp"] | {"experts": None}, "routing": None}
    for objective in (teacher, _BesideAValue(companion)):
        assert not {"balance", "router_z"} & LossModule(build(ModelConfig.model_validate(dense), seed=3), objective).terms.keys()
        module = LossModule(fresh(), objective)
        losses = module(batch)
        for term in ("balance", "router_z"):
            torch.testing.assert_close(losses[term], alone[term], rtol=1e-6, atol=0)
        companion.zero_grad()
        (losses["balance"] + losses["router_z"]).backward()
        assert all(parameter.grad is None or not parameter.grad.any() for parameter in companion.parameters())


@pytest.mark.parametrize("layout", [pack, to_int8])
@torch.no_grad()
def test_models_that_only_answer_choose_the_same_experts(layout: Callable[[Transformer], None]) -> None:
    """The routers stay as they are, and an expert without tokens computes nothing."""
    if not (can_pack if layout is pack else has_int8)(torch.device("cpu")):
        pytest.skip("this processor does not have it")
    model, laid_out = fresh().eval(), fresh().eval()
    layout(laid_out)
    kept = [name for name, module in laid_out.named_modules() if isinstance(module, torch.nn.Linear)]
    assert kept == ["decoder.blocks.0.mlp.op.router", "decoder.blocks.2.mlp.op.router"]
    for length in (12, 1):
        x = torch.randn(1, length, 24, generator=torch.Generator().manual_seed(4))
        exact, found = (one.decoder.blocks[0].mlp.op(x, []) for one in (model, laid_out))
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-5 if layout is pack else 0.03 * float(exact.abs().max()))


def test_no_update_of_a_matrix_beside_attention() -> None:
    """transformers' class has no module for that of an expert, to which peft could apply it."""
    said = r"'up_proj' matches no matrix of the model's stacks outside its MLPs, which get no updates in a mixture of experts"
    with pytest.raises(UsageError, match=said):
        find_targets(fresh(), ["q_proj", "up_proj"])
    assert {name.rpartition(".")[2] for name in find_targets(fresh(), ["decoder.*"])} == {"q_proj", "k_proj", "v_proj", "o_proj"}


def active_parameters(config: ModelConfig) -> int:
    """Return the parameters that a token is multiplied by, of a model in which every layer has experts."""
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    norms = {None: 0, "head": 2 * config.head_dim, "projection": queries + keys}[config.attention.qk_norm]
    attention = config.dim * (2 * queries + 2 * keys) + norms
    mlp = config.dim * (config.mlp.experts.count + 3 * config.expert_dim * config.mlp.experts.active)
    return config.dim * (2 * config.vocab_size + 1) + config.decoder_layers * (attention + 2 * config.dim + mlp)


@pytest.mark.parametrize(
    ("preset", "billions"),
    [("mixtral-8x7b", 12.9), ("mixtral-8x22b", 39.0), ("olmoe-1b-7b", 1.3), ("qwen3-moe-30b-a3b", 3.3), ("qwen3-moe-235b-a22b", 22.0)],
)
def test_the_published_active_parameters(preset: str, billions: float) -> None:
    """By the formula, which counts two layers of the model to the digit."""
    values = PRESETS[preset][1]
    assert active_parameters(ModelConfig.model_validate(values)) == pytest.approx(1e9 * billions, rel=0.02)
    shallow = ModelConfig.model_validate(values | {"decoder_layers": 2})
    assert active_numel(on_meta(shallow)) == active_parameters(shallow)


def test_what_makes_no_mixture_is_refused() -> None:
    for changes, said in (
        ({"mlp": {"activation": "silu", "experts": {"count": 2, "active": 3}}}, "active 3 is above"),
        ({"mlp": {"activation": "silu", "experts": {"count": 2, "active": 1, "layers": [False]}}}, "gives no layer experts"),
        ({"mlp": {"activation": "silu"}}, "routing is for a mixture .* set model.routing to null, too"),
        ({"encoder_layers": 1}, "for a decoder alone"),
    ):
        with pytest.raises(ValueError, match=said):
            ModelConfig.model_validate(VALUES | changes)
