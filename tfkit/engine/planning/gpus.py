"""GPUs by name: dense bf16 peak, memory, bandwidths and board power, from the vendors' data sheets. Torch-free."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """A GPU, and the source of its numbers."""

    name: str
    peak_flops: float  # per second, dense, bf16
    bytes_per_second: float  # of its memory
    memory_bytes: float
    watts: float  # of the board
    link_bytes_per_second: float  # to the other GPUs of its node, in one direction
    source: str


GPUS = {
    # NVIDIA H100 Tensor Core GPU data sheet, SXM5: bf16 1,979 TFLOP/s with sparsity; 3.35 TB/s; 80 GB; 700 W; NVLink 900 GB/s both ways
    "h100": Gpu("NVIDIA H100 SXM", 989e12, 3.35e12, 80e9, 700.0, 450e9, "NVIDIA H100 data sheet (SXM5)"),
    # NVIDIA A100 Tensor Core GPU data sheet, 80 GB SXM4: bf16 312 TFLOP/s dense; 2,039 GB/s; 400 W; NVLink 600 GB/s both ways
    "a100": Gpu("NVIDIA A100 80GB SXM", 312e12, 2.039e12, 80e9, 400.0, 300e9, "NVIDIA A100 data sheet (80 GB SXM4)"),
    # NVIDIA L4 Tensor Core GPU data sheet: bf16 242 TFLOP/s with sparsity; 300 GB/s; 24 GB; 72 W; PCIe Gen4 x16, 64 GB/s both ways
    "l4": Gpu("NVIDIA L4", 121e12, 300e9, 24e9, 72.0, 32e9, "NVIDIA L4 data sheet"),
    # AMD Instinct MI300X data sheet: bf16 1,307.4 TFLOP/s dense; 5.3 TB/s; 192 GB; 750 W; Infinity Fabric 7 x 64 GB/s each way
    "mi300x": Gpu("AMD Instinct MI300X", 1307.4e12, 5.3e12, 192e9, 750.0, 448e9, "AMD Instinct MI300X data sheet"),
}


def gpu_of(device_name: str) -> Gpu | None:
    """Return the GPU that a driver reports under this name; None if it is not in the table."""
    words = re.sub(r"[^a-z0-9]+", " ", device_name.lower()).split()
    if "pcie" in words or "nvl" in words:  # boards with less power
        return None
    return next((gpu for name, gpu in GPUS.items() if name in words), None)
