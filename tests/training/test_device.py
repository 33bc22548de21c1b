"""Which device, which arithmetic, and what is said when it is not there."""

import os

import pytest
import torch

from tfkit.engine.planning.hardware import GPUS
from tfkit.errors import MachineError, UsageError, is_out_of_memory
from tfkit.training.device import has_bf16, make_deterministic, memory_bytes, pick_device, pick_precision
from tfkit.training.isolation import isolated
from tfkit.training.peak_speed import matrix_speed, peak_flops, peak_of_gpu

CPU = torch.device("cpu")


def test_what_is_there() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device(None) == pick_device("auto")
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert pick_device(None) == CPU
    assert 1e8 < peak_flops(CPU, torch.float32) < 1e15
    assert 10e6 < memory_bytes(CPU) < 1e13


def test_a_device_that_is_not_here() -> None:
    for name in ("abacus", "cuda:x", "", "cpu cpu"):
        with pytest.raises(UsageError, match=f"device={name}: not a device; use cpu"):
            pick_device(name)
    for name in ("cuda:99", "meta", "xpu"):
        with pytest.raises(MachineError, match=f"device={name}: this machine or this build of PyTorch has no such device"):
            pick_device(name)


def test_precision() -> None:
    automatic = torch.bfloat16 if has_bf16(CPU) else torch.float32
    assert [pick_precision(name, CPU) for name in ("fp32", "bf16", "auto")] == [torch.float32, torch.bfloat16, automatic]


def test_the_peak_of_a_cpu_is_measured_once_for_each_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix_speed.cache_clear()
    for threads in (1, 2, 1):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        peak_flops(CPU, torch.float32)
    assert matrix_speed.cache_info().misses == 2


PEAKS = {"H100 80GB HBM3": 989e12, "H100 PCIe": 756e12, "A100-SXM4-40GB": 312e12, "A10G": 70e12, "A10": 125e12, "T400": None}
PEAKS |= {"L40S": 362e12, "L40": 181e12, "L4": 121e12, "GeForce RTX 4090 Laptop GPU": None}


def test_the_peak_of_a_gpu_is_that_of_its_own_data_sheet_also_in_a_plan() -> None:
    assert {name: peak_of_gpu(f"NVIDIA {name}") for name in PEAKS} == PEAKS
    assert all(peak_of_gpu(gpu.name) == gpu.peak_flops for gpu in GPUS.values())


@pytest.mark.parametrize("workspace", [None, ":0:0", ":16:8"])
def test_on_cuda_an_operation_that_is_not_deterministic_is_an_error(workspace: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With warnings alone CUDA's attention would stay random, and no run could be resumed exactly."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if workspace is not None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    with isolated():
        make_deterministic(torch.device("cuda"))
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")


def test_what_a_device_says_when_its_memory_ends() -> None:
    said = ["MPS backend out of memory (MPS allocated: 17.90 GB, max allowed: 18.13 GB)"]
    said += ["CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"]
    full = (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), torch.AcceleratorError("CUDA error: out of memory"))
    assert all(map(is_out_of_memory, (*full, *map(RuntimeError, said))))
    assert not any(
        map(is_out_of_memory, (RuntimeError("CUDA error: device-side assert triggered"), ValueError("MPS backend out of memory")))
    )
