"""The reference of a run is the model of its first step, whatever that learns: a copy, or the base of LoRA's updates, which share it."""

from contextlib import suppress

import pytest
import torch
from tiny_training import GPT2, adapted, batches, fresh, stepper
from torch import Tensor

from tfkit.adapters import FrozenReference, add_lora, freeze
from tfkit.adapters.lora import layers_of, without_updates
from tfkit.model.transformer import Transformer
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.log_probs import response_log_probs, sequence_sums
from tfkit.objectives.objective import IGNORED, Batch
from tfkit.recipe.schema.sections import LoraSection

DROPPED = GPT2 | {"dropout": {"residual": 0.5, "embedding": 0.5}}


def with_updates() -> Transformer:
    return adapted(DROPPED, 0.5)


def partly_frozen() -> Transformer:
    model = fresh(DROPPED)
    freeze(model, ["embedding.*"])
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("made", [with_updates, partly_frozen, lambda: fresh(DROPPED)])
def test_the_reference_says_what_the_first_model_said(made: type[Transformer], dtype: torch.dtype) -> None:
    model = made()
    taking = stepper(model, dtype=dtype)
    reference = FrozenReference(model)
    assert reference.is_copy == (made is not with_updates)
    [batch] = batches(CausalLM(), 8)
    model.eval()
    with torch.no_grad():
        first = response_log_probs(model, batch)
    for step in (1, 2):
        taking.take(step, batches(CausalLM(), 4, step - 1), 1.0)
    assert model.training
    with reference.in_use() as frozen:
        found = response_log_probs(frozen, batch)
    assert model.training  # as it was
    assert torch.equal(found, first)
    assert not found.requires_grad
    assert all(layer.has_update for layer in layers_of(model).values())
    model.eval()
    assert not torch.equal(response_log_probs(model, batch), first)


def test_an_error_turns_the_updates_on_again() -> None:
    model = with_updates()

    with suppress(KeyError), without_updates(model):
        assert not any(layer.has_update for layer in layers_of(model).values())
        raise KeyError
    assert all(layer.has_update for layer in layers_of(model).values())


def test_a_reference_that_trains_a_head_in_full_is_a_copy() -> None:
    model = fresh(GPT2, head={"kind": "classes", "count": 2, "pool": "last"})
    add_lora(model, LoraSection(rank=2), seed=1)
    assert FrozenReference(model).is_copy


class Without(CausalLM):
    """Causal language modelling that compares two forwards."""

    draws_dropout = False


def test_an_objective_without_dropout_has_the_loss_of_an_evaluation() -> None:
    model = fresh(DROPPED)
    [batch] = batches(CausalLM(), 8)
    with torch.no_grad():
        sums = CausalLM().measure(model.eval(), batch)["lm"]
    report = stepper(model, objective=Without()).take(1, [batch], 1.0)
    assert report.loss == pytest.approx(sums.mean, rel=1e-6)
    assert stepper(fresh(DROPPED)).take(1, [batch], 1.0).loss != pytest.approx(report.loss, rel=1e-3)


def test_activations_are_computed_again_without_dropout_too() -> None:
    kept = {False: 0, True: 0}
    for checkpointed in kept:
        model = fresh(DROPPED)
        model.decoder.activation_checkpointing = checkpointed

        def keep(tensor: Tensor, of: bool = checkpointed) -> Tensor:
            kept[of] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            Without().loss(model.eval(), *batches(CausalLM(), 8))
    assert kept[True] < kept[False] / 2


def test_the_sums_of_responses_are_those_of_each_sequence() -> None:
    labels = torch.tensor([[IGNORED, 4, 9], [IGNORED, IGNORED, IGNORED], [2, IGNORED, 1]])
    found = sequence_sums(torch.tensor([-1.0, -2.0, -4.0, -8.0]), labels)
    assert found.tolist() == [-3.0, 0.0, -12.0]


def test_the_temperature_divides_the_logits_of_responses() -> None:
    model = fresh(GPT2, head={"tied": True, "softcap": 2.0}).double().eval()
    batch = Batch(torch.tensor([[3, 1, 4, 1]]), torch.tensor([[IGNORED, 4, 1, 5]]))
    expected = (model(**batch.inputs()).logits / 0.7).log_softmax(-1)[0, torch.arange(1, 4), batch.labels[0, 1:]]
    found = response_log_probs(model, batch, temperature=0.7)
    torch.testing.assert_close(found, expected.float(), atol=1e-6, rtol=1e-6)
    for ours, theirs in zip(*(torch.autograd.grad(one.sum(), list(model.parameters())) for one in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
