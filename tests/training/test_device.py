"""Which device, which arithmetic, and what is said when it is not there."""

import pytest
import torch

from tfkit.errors import MachineError, UsageError
from tfkit.training.device import has_bf16, memory_bytes, peak_flops, pick_device, pick_precision

CPU = torch.device("cpu")


def test_what_is_there() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device(None) == pick_device("auto")
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert pick_device(None) == CPU


@pytest.mark.parametrize("name", ["abacus", "cuda:x", "", "cpu cpu"])
def test_no_device_at_all(name: str) -> None:
    with pytest.raises(UsageError, match=f"--device {name}: not a device; use cpu"):
        pick_device(name)


@pytest.mark.parametrize("name", ["cuda:99", "meta", "xpu"])
def test_a_device_that_is_not_here(name: str) -> None:
    with pytest.raises(MachineError, match=f"--device {name}: this machine or this build of PyTorch has no such device"):
        pick_device(name)


def test_precision() -> None:
    assert pick_precision("fp32", CPU) == torch.float32
    assert pick_precision("bf16", CPU) == torch.bfloat16
    assert pick_precision("auto", CPU) == (torch.bfloat16 if has_bf16(CPU) else torch.float32)


def test_the_machine_in_numbers() -> None:
    assert 1e8 < peak_flops(CPU, torch.float32) < 1e15
    assert 10e6 < memory_bytes(CPU) < 1e13
