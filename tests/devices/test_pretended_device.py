"""Losses, gradients and scores on a device that is not the CPU, where there is none: no tensor is made in the wrong place."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from device_cases import CASES, family_model
from pretended_device import ELSEWHERE, DeviceError, PretendedDevice
from torch.overrides import TorchFunctionMode

from tfkit.adapters.lora import add_lora
from tfkit.recipe.schema.sections import LoraSection

BF16 = {"gemma2-causal_lm", "t5-text_to_text", "bert-next_sentence", "gpt-multiple_choice"}
EACH = pytest.mark.parametrize(
    ("case", "dtype"), [(case, torch.float32) for case in CASES] + [(case, torch.bfloat16) for case in sorted(BF16)]
)


def test_the_pretended_device_refuses_what_a_gpu_refuses() -> None:
    with PretendedDevice() as device:
        there = torch.ones(3).to(ELSEWHERE)
        with pytest.raises(DeviceError, match="a tensor of the CPU"):
            there + torch.ones(3)
        with pytest.raises(DeviceError, match="float64"):
            there.double()
        with pytest.raises(DeviceError, match="numpy"):
            there.numpy()
        assert (there * torch.tensor(2.0) + torch.arange(3, device=ELSEWHERE)).tolist() == [2, 3, 4]
        assert there[torch.tensor([1])].cpu().double().numpy() == [1]
        assert device.operations == 5


@pytest.mark.sampled(13)
@EACH
def test_losses_gradients_and_scores_are_those_of_the_cpu(case: str, dtype: torch.dtype, tmp_path: Path) -> None:
    family, make = CASES[case]
    task = make(tmp_path)
    objective, batch = task.objective, task.batches(0)[0]
    here = family_model(family, task).to(dtype)
    there = family_model(family, task).to(dtype)
    if teacher := getattr(objective, "teacher", None):
        teacher.model.to(dtype)
    losses = objective.loss(here.train(), batch)
    torch.stack([weight * losses[term] for term, weight in objective.terms.items()]).sum().backward()
    with torch.no_grad():
        measured = objective.measure(here.eval(), batch)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    with PretendedDevice() as device:
        there.to(ELSEWHERE)
        if teacher:
            teacher.model.to(ELSEWHERE)
        moved = batch.to(ELSEWHERE)
        found = objective.loss(there.train(), moved)
        torch.stack([weight * found[term] for term, weight in objective.terms.items()]).sum().backward()
        with torch.no_grad():
            scored = objective.measure(there.eval(), moved)
        assert device.operations > 50
        for term, loss in losses.items():
            torch.testing.assert_close(found[term].detach().cpu(), loss.detach(), **tolerance)
        names = {name for name, parameter in here.named_parameters() if parameter.grad is not None}
        assert names == {name for name, parameter in there.named_parameters() if parameter.grad is not None}
        grads = {name: here.get_parameter(name).grad for name in names}
        whole = float(torch.nn.utils.get_total_norm(grads.values()))
        for name, grad in grads.items():  # some are zero but for rounding: the bias of keys
            difference = float((there.get_parameter(name).grad.cpu() - grad).norm())
            assert difference <= tolerance["rtol"] * (float(grad.norm()) + whole / 50), name
    for name, value in objective.metrics(measured).items():
        assert objective.metrics(scored)[name] == pytest.approx(value, rel=tolerance["rtol"], abs=0.1 if "accuracy" in name else 1e-3), name


@pytest.mark.parametrize("how", ["updates", "activation checkpointing"])
def test_updates_and_activation_checkpointing_are_made_in_the_right_place(how: str, tmp_path: Path) -> None:
    family, make = CASES["llama-causal_lm"]
    task = make(tmp_path)
    batch, grads = task.batches(0)[0], []
    for device in (torch.device("cpu"), ELSEWHERE):
        with PretendedDevice():
            model = family_model(family, task)
            if how == "updates":
                add_lora(model, LoraSection(rank=2), seed=1)
            else:
                model.decoder.activation_checkpointing = True
            model.to(device).train()
            task.objective.loss(model, batch.to(device))["lm"].backward()
            grads.append({name: parameter.grad.cpu() for name, parameter in model.named_parameters() if parameter.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", ["llama-causal_lm", "llama-one_document"])
def test_where_there_is_a_mask_each_head_has_its_keys(case: str, tmp_path: Path) -> None:
    """CUDA's kernels know masks or groups, not both."""
    family, make = CASES[case]
    task, called = make(tmp_path), []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is F.scaled_dot_product_attention:
                called.append((kwargs["attn_mask"] is not None, kwargs["enable_gqa"]))
            return func(*args, **(kwargs or {}))

    with PretendedDevice(), Watch():
        task.objective.loss(family_model(family, task).to(ELSEWHERE), task.batches(0)[0].to(ELSEWHERE))
    assert called == [(True, False) if "causal" in case else (False, True)] * 2
