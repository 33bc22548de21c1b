"""Rollouts on a device that is not the CPU, where there is none: nothing is made in the wrong place, and all is as on the CPU."""

from pathlib import Path
from typing import Any

import torch
from pretended_device import ELSEWHERE, PretendedDevice
from tiny_rollouts import World

PROMPTS = ["a", "bc", "cab", "bbbbb"]
SIZES: dict[str, Any] = {"prompts": 4, "completions": 4, "batch_size": 8, "micro": 4, "temperature": 0.8, "beta": 0.1}


def test_an_iteration_is_that_of_the_cpu(tmp_path: Path) -> None:
    here, there = World(tmp_path, PROMPTS, **SIZES), World(tmp_path, PROMPTS, **SIZES)
    expected = here.loader.step(0)
    losses = [here.objective.loss(here.policy.eval(), batch) for batch in expected]
    with PretendedDevice() as device:
        there.policy.to(ELSEWHERE)
        with there.reference.in_use() as reference:
            reference.to(ELSEWHERE)
        there.loader.device = ELSEWHERE
        found = there.loader.step(0)
        assert device.operations > 100
        assert there.loader.observed().keys() == here.loader.observed().keys()
        tensors, state = there.loader.state(1)
        for ours, theirs, loss in zip(found, expected, losses, strict=True):
            assert ours.labels.tolist() == theirs.labels.tolist()
            for name, values in theirs.extras.items():
                torch.testing.assert_close(ours.extras[name], values, atol=1e-5, rtol=1e-4)
            moved = there.objective.loss(there.policy.eval(), ours.to(ELSEWHERE))
            moved["policy"].backward()
            for name, value in loss.items():
                torch.testing.assert_close(moved[name].detach().cpu(), value.detach(), atol=1e-4, rtol=1e-4)
    assert {tensor.device.type for tensor in tensors.values()} == {"cpu"}  # as a checkpoint takes them
    assert state["iteration"] == 0
