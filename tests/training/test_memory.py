"""The estimate of a step's memory against real steps, and what this machine says it has."""

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_training import GPT2, LLAMA, batches, config, stepper, stream

from tfkit.data import Loader, PackedRows
from tfkit.model.transformer import build
from tfkit.objectives.causal_lm import CausalLM
from tfkit.training import memory
from tfkit.training.memory import available_bytes, largest_divisor, rows_that_fit, state_bytes, step_bytes_per_row

BIG = {"dim": 192, "context_length": 256, "decoder_layers": 3, "vocab_size": 1000, "hidden_dim": 768}


@pytest.mark.parametrize("values", [GPT2, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_estimate_holds_for_a_real_step(values: dict[str, object], dtype: torch.dtype, checkpointing: bool) -> None:
    """A row's estimate against what 16 more rows really take at the peak, each measured in a process of its own."""

    def peak(rows: int) -> int:
        torch.set_num_threads(1)  # the threads of the parent are not in the fork
        taking = stepper(build(config(values, **BIG), seed=1), dtype=dtype)
        taking.model.decoder.activation_checkpointing = checkpointing
        packed = PackedRows([(stream(1000, documents=600), 1.0)], 256, seed=1)
        batch = Loader(packed, CausalLM().collate, rows, rows).step(0)
        taking.try_out(1, batch[0])
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    taking = stepper(build(config(values, **BIG), seed=1), dtype=dtype)
    taking.model.decoder.activation_checkpointing = checkpointing
    packed = PackedRows([(stream(1000, documents=600), 1.0)], 256, seed=1)
    estimate = step_bytes_per_row(taking.model, CausalLM(), Loader(packed, CausalLM().collate, 1, 1).step(0)[0])
    measured = (_in_a_fork(peak, 20) - _in_a_fork(peak, 4)) / 16
    assert measured < estimate < 2.2 * measured, (estimate, measured)


def _in_a_fork(measure: Callable[[int], int], rows: int) -> int:
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.write(writing, str(measure(rows)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading) as pipe:
        return int(pipe.read())


def test_the_model_is_as_it_was_after_the_estimate() -> None:
    taking = stepper(build(config(GPT2), seed=1))
    taking.model.decoder.activation_checkpointing = True
    assert step_bytes_per_row(taking.model, CausalLM(), batches(CausalLM(), 4)[0]) > 0
    assert taking.model.decoder.activation_checkpointing
    assert all(parameter.grad is None for parameter in taking.weights.master.values())


def test_state() -> None:
    """fp32 weights, gradients and AdamW's two moments; with bf16 a working copy besides."""
    assert state_bytes(1000, 2, torch.float32) == 16_000
    assert state_bytes(1000, 2, torch.bfloat16) == 18_000
    assert state_bytes(1000, 1, torch.float32) == 12_000


def test_rows_that_fit() -> None:
    logits = 2 * memory.LOGITS_BYTES
    assert rows_that_fit(10, logits + 95) == 9
    assert rows_that_fit(10, logits - 1) == rows_that_fit(10, -5) == 1
    assert rows_that_fit(10, None) > 10**9
    assert [largest_divisor(12, most) for most in (1, 5, 7, 11, 12, 99)] == [1, 4, 6, 6, 12, 12]


def _machine(folder: Path, patch: pytest.MonkeyPatch, **files: str) -> None:
    """A machine whose /proc and /sys/fs/cgroup hold these files; dots in names are slashes."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("-", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")
    patch.setattr(memory, "_ROOT", folder)
    patch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


MEMINFO = "MemTotal: 9000 kB\nMemFree: 100 kB\nMemAvailable: 8000 kB\nSwapFree: 500 kB\n"


def test_what_the_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(tmp_path, monkeypatch, proc__meminfo=MEMINFO)
    assert available_bytes() == 8000 * 1024
    assert available_bytes(swap=True) == 8500 * 1024
    _machine(tmp_path / "other", monkeypatch)
    assert available_bytes() is None  # not Linux


def test_a_control_group_has_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 2; the page cache may go, and the group above counts as well."""
    files = {"proc__meminfo": MEMINFO, "proc__self__cgroup": "0::/jobs/mine\n"}
    group = "sys__fs__cgroup__jobs__"
    files |= {f"{group}mine__memory-max": "max", f"{group}mine__memory-current": "1", f"{group}mine__memory-stat": "inactive_file 0\n"}
    files |= {f"{group}memory-max": "1000000", f"{group}memory-current": "900000", f"{group}memory-stat": "anon 5\ninactive_file 200000\n"}
    _machine(tmp_path, monkeypatch, **files)
    assert available_bytes() == 300_000


def test_a_control_group_of_version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = "sys__fs__cgroup__memory__job__"
    files = {"proc__meminfo": MEMINFO, "proc__self__cgroup": "3:cpu,cpuacct:/x\n5:memory:/job\n"}
    files |= {f"{group}memory-limit_in_bytes": "500000", f"{group}memory-usage_in_bytes": "100000"}
    files |= {f"{group}memory-stat": "total_inactive_file 1000\n", "sys__fs__cgroup__memory__memory-limit_in_bytes": str(2**63 - 4096)}
    _machine(tmp_path, monkeypatch, **files)
    assert available_bytes() == 401_000


def test_ulimit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(tmp_path, monkeypatch, proc__meminfo=MEMINFO, proc__self__statm="10 5 1 1 0 1 0")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (4_000_000, 4_000_000))
    assert available_bytes() == 4_000_000 - 10 * resource.getpagesize()
