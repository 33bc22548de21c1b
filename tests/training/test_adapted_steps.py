"""Steps of a model with updates beside its matrices, and with frozen parameters: gradients, what moves, and what does not."""

import pytest
import torch
from tiny_training import GPT2, adapted, batches, fresh, stepper
from torch import Tensor

from tfkit.adapters import Merged, freeze
from tfkit.adapters.lora import layers_of
from tfkit.model.transformer import Transformer
from tfkit.objectives.causal_lm import CausalLM
from tfkit.training.step import Stepper


def trained() -> Transformer:
    """With updates as if trained for a while."""
    model, generator = adapted(), torch.Generator().manual_seed(2)
    for layer in layers_of(model).values():
        layer.lora_b.data.normal_(0, 0.1, generator=generator)
    return model


def gradients(taking: Stepper, micro_batch_size: int) -> dict[str, Tensor]:
    """The gradient that a step hands to the optimizer, before the clipping scales it."""
    held: dict[str, Tensor] = {}

    def hold(*factors: float) -> None:
        held.update({name: p.grad.clone() for name, p in taking.weights.master.items() if p.grad is not None})

    taking.optimizer.section = taking.optimizer.section.model_copy(update={"clip_norm": None})
    taking.optimizer.step = hold
    taking.take(1, batches(CausalLM(), micro_batch_size), 1.0)
    return held


@pytest.mark.parametrize("micro_batch_size", [8, 1, 2])
def test_the_factors_gradients_follow_from_that_of_the_matrix(micro_batch_size: int) -> None:
    """W' = W + s B A, so the gradient of B is s G A^T and that of A is s B^T G, G being the merged model's: of 1 x 8, 8 x 1 and 4 x 2."""
    model = trained()
    whole = fresh()
    whole.load_state_dict(Merged(model, model.state_dict()))
    expected = gradients(stepper(whole), 8)
    found = gradients(stepper(model), micro_batch_size)
    assert found.keys() == {f"{name}.lora_{part}" for name in layers_of(model) for part in "ab"}
    for name, layer in layers_of(model).items():
        of_matrix, a, b = expected[f"{name}.weight"], layer.lora_a.detach(), layer.lora_b.detach()
        torch.testing.assert_close(found[f"{name}.lora_b"], 4 / 3 * of_matrix @ a.T, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(found[f"{name}.lora_a"], 4 / 3 * b.T @ of_matrix, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decay", [None, 0.5])
def test_only_what_is_trained_moves_and_is_kept_beside_the_weights(dtype: torch.dtype, decay: float | None) -> None:
    model = trained()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    taking = stepper(model, dtype=dtype, ema_decay=decay)
    for step in (1, 2, 3):
        taking.take(step, batches(CausalLM(), 4, step - 1), 1.0)
    moved = {name for name, parameter in taking.weights.master.items() if not torch.equal(parameter.detach(), before[name])}
    assert moved == taking.weights.trained.keys() == {name for name in before if ".lora_" in name}
    assert {name.rpartition("/")[0] for name in taking.optimizer.state()} == moved
    result = taking.weights.result
    assert result.keys() == before.keys()
    assert all(torch.equal(result[name], before[name]) for name in before.keys() - moved)  # in float32, whatever the model computes in
    if decay is not None:
        assert all(result[name].data_ptr() == taking.weights.master[name].data_ptr() for name in before.keys() - moved)
        assert not any(torch.equal(result[name], taking.weights.master[name]) for name in moved)
    with taking.weights.use_result():
        at_work = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    assert all(torch.equal(at_work[name], result[name].to(dtype)) for name in before)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_frozen_parameters_the_others_have_the_gradients_that_they_had(dtype: torch.dtype) -> None:
    expected = gradients(stepper(fresh(GPT2), dtype=dtype), 4)
    model = fresh(GPT2)
    freeze(model, ["embedding.*", "*.norm.*", "decoder.blocks.0.mlp.*"])
    found = gradients(stepper(model, dtype=dtype), 4)
    assert found.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert 0 < len(found) < len(expected)
    torch.testing.assert_close(found, {name: expected[name] for name in found}, atol=0, rtol=0)


def test_blocks_that_are_computed_again_give_the_same_gradients() -> None:
    """Though nothing that goes into the first block has one."""
    expected = gradients(stepper(trained()), 4)
    model = trained()
    for stack in model.stacks:
        stack.activation_checkpointing = True
    torch.testing.assert_close(gradients(stepper(model), 4), expected, atol=0, rtol=0)
