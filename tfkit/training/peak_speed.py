"""The peak speed of a device in FLOP/s, of which the model FLOPs utilization (MFU) of a training is a fraction."""

import re
import time
from functools import cache

import torch

_SIZE = 1024  # rows and columns of the matrices that are multiplied

# Dense bf16 peak in FLOP/s according to the vendors' data sheets, by words of the device's name; the first match counts.
GPU_PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A40": 150e12,
    "A30": 165e12,
    "A10": 125e12,
    "A10G": 70e12,
    "A6000": 155e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 3090": 71e12,
    "RTX 4090": 165e12,
    "MI300X": 1307.4e12,
}


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Return the peak FLOP/s of the device: for a CUDA GPU from GPU_PEAKS (None if not listed, or `dtype` is not bf16), else measured."""
    if device.type == "cuda":
        return peak_of_gpu(torch.cuda.get_device_name(device)) if dtype == torch.bfloat16 else None
    return matrix_speed(device, dtype, torch.get_num_threads())


@cache
def matrix_speed(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """Measure the FLOP/s of a product of large matrices of `dtype` on the device: that of the fastest of the products within 0.1 s.

    `threads`: the number of threads of this process, on which a CPU's speed depends; here it is only a key of the cache.
    """
    a = torch.ones(_SIZE, _SIZE, dtype=dtype, device=device)
    best = float("inf")
    end = time.perf_counter() + 0.1
    while time.perf_counter() < end:
        start = time.perf_counter()
        (a @ a)[0, 0].item()  # waits until a GPU has finished
        best = min(best, time.perf_counter() - start)
    return 2 * _SIZE**3 / best


def peak_of_gpu(name: str) -> float | None:
    """Return the data sheet's dense bf16 peak, in FLOP/s, by the driver's name of a GPU ("NVIDIA H100 80GB HBM3"); None if unknown."""
    matching = (peak for words, peak in GPU_PEAKS.items() if re.search(rf"\b{words}\b", name))
    return None if "Laptop" in name else next(matching, None)  # laptops have other chips under the same name
