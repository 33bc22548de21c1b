"""The estimate of a step's memory against real steps, and what this machine says it has."""

import gc
import os
import resource
import subprocess
import sys
from pathlib import Path
from weakref import ref

import peak_of_a_step
import pytest
import torch
from tiny_training import GPT2, batches, config, stepper

from tfkit.model.transformer import build
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.objective import Batch
from tfkit.training import free_memory, memory
from tfkit.training.free_memory import available_bytes, resident_bytes
from tfkit.training.loss_module import LossModule
from tfkit.training.memory import (
    activation_bytes_per_row,
    choose_micro_batch,
    companion_bytes_per_row,
    largest_divisor,
    likely_peak,
    planned_row_bytes,
    step_bytes_per_row,
)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the peak of a process")
@pytest.mark.slow  # a process each
@pytest.mark.parametrize("family", peak_of_a_step.MODELS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kept", ["kept", "checkpointing"])
def test_an_estimate_holds_for_a_real_step(family: str, dtype: str, kept: str) -> None:
    """A row's estimate against what 32 more rows really take at the peak."""
    taking = peak_of_a_step.made(family, dtype, kept == "checkpointing")
    estimate = step_bytes_per_row(taking.loss_module, peak_of_a_step.batch(family, 1))
    measured = measured_bytes_per_row(family, dtype, kept)
    assert measured < estimate < 2.2 * measured, (estimate, measured)


def measured_bytes_per_row(*words: str) -> float:
    """Return what each of 32 more rows takes at the peak of a fresh process: in this one, memory that was freed would be taken again."""
    paths = os.pathsep.join(path for path in sys.path if path)
    program = [sys.executable, peak_of_a_step.__file__, *words]
    found = subprocess.run(program, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": paths})
    return int(found.stdout) / 32


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["taught", "capped"])
def test_an_estimate_holds_for_a_real_step_with_a_teacher(kind: str) -> None:
    taking = peak_of_a_step.made_taught(kind)
    estimate = step_bytes_per_row(taking.loss_module, peak_of_a_step.batch("gpt2", 1)) + companion_bytes_per_row(taking.objective, 256, 4)
    measured = measured_bytes_per_row(kind)
    assert measured < estimate < 2.2 * measured, (estimate, measured)


def test_a_teachers_weights_are_not_counted_for_each_row() -> None:
    """Autograd holds the hidden states that its logits are made of, and they alone: 256 positions of 768 numbers, with the margin."""
    taking, row = peak_of_a_step.made_taught("taught"), peak_of_a_step.batch("gpt2", 1)
    alone = step_bytes_per_row(LossModule(taking.model, CausalLM()), row)
    assert 0 < step_bytes_per_row(taking.loss_module, row) - alone < 2 * 256 * 768 * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plan_counts_what_dropout_of_attention_keeps_on_a_cpu(dtype: torch.dtype) -> None:
    """With the square of the length, and beside the activations that a model without has."""
    plain, dropping = config(GPT2, context_length=512), config(GPT2, context_length=512, dropout={"attention": 0.1})
    for length in (256, 512):
        ids = torch.ones(1, length, dtype=torch.long)
        modules = [stepper(build(one, seed=1), dtype=dtype).loss_module for one in (plain, dropping)]
        kept = [memory._kept_bytes(one, Batch(ids, ids)) for one in modules]
        planned = [activation_bytes_per_row(one, length, dtype.itemsize, has_fused_dropout=False) for one in (plain, dropping)]
        assert (planned[1] - planned[0]) / memory._MARGIN == pytest.approx(kept[1] - kept[0], rel=0.1)
        tried = [step_bytes_per_row(one, Batch(ids, ids)) for one in modules]  # from the beginning of the row
        assert tried[1] - tried[0] == pytest.approx(kept[1] - kept[0], rel=0.15)
        scores = memory._score_bytes(plain, length, dtype.itemsize)
        assert kept[0] < (tried[0] - length**2) / memory._MARGIN - scores < 1.5 * kept[0]
    in_half = activation_bytes_per_row(dropping, 512, 2, has_fused_dropout=True)
    assert in_half == activation_bytes_per_row(plain, 512, 4, has_fused_dropout=False) / 2


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_plan_counts_what_is_computed_again(dropout: float) -> None:
    """Of eight blocks, all but one with its gradients and the tensors between them: as far as what is tried before a run."""
    deep = config(GPT2, context_length=128, decoder_layers=8, dropout={"attention": dropout})
    ids, planned, tried = torch.ones(1, 128, dtype=torch.long), [], []
    for checkpointing in (False, True):
        module = stepper(build(deep, seed=1)).loss_module
        module.model.decoder.activation_checkpointing = checkpointing
        tried.append(step_bytes_per_row(module, Batch(ids, ids)))
        planned.append(planned_row_bytes(deep, module.objective, 128, 4, has_fused_dropout=False, checkpointing=checkpointing))
    assert tried[1] < tried[0] / 2
    assert planned[1] / planned[0] == pytest.approx(tried[1] / tried[0], rel=0.25)


def test_the_model_is_as_it_was_after_the_estimate() -> None:
    taking = stepper(build(config(GPT2), seed=1))
    taking.model.decoder.activation_checkpointing = True
    assert step_bytes_per_row(LossModule(taking.model, CausalLM()), batches(CausalLM(), 4)[0]) > 0
    assert taking.model.decoder.activation_checkpointing
    assert all(parameter.grad is None for parameter in taking.weights.master.values())


def test_nothing_of_the_estimate_is_left() -> None:
    """An operation that keeps its own result, such as a softmax, must not keep itself: it would keep the weights, which ranks share."""
    model = build(config(GPT2), seed=1)
    step_bytes_per_row(LossModule(model, CausalLM()), batches(CausalLM(), 4)[0])
    left = [ref(parameter) for parameter in model.parameters()]
    del model
    gc.collect()
    assert not any(one() is not None for one in left)


def test_the_likely_peak() -> None:
    """The memory in use and the memory to come: the activations without their margin, and at most two blocks of logits."""
    assert likely_peak(1000, 200, 160, 10) == 1000 + 200 + 100 + 20
    assert likely_peak(0, 0, 0, 10**12) == 2 * memory.LOGITS_BYTES
    held = resident_bytes()
    assert held is None or 10**7 < held < 10**11


def test_rows_that_fit() -> None:
    logits = 2 * memory.LOGITS_BYTES
    assert choose_micro_batch(9, 1, 10, logits + 95) == 9
    assert choose_micro_batch(9, 1, 10, logits + 89) == 3  # a divisor
    assert choose_micro_batch(9, 1, 10, logits - 1) == choose_micro_batch(9, 1, 10, -5) == 1
    assert choose_micro_batch(9, 1, 10, None) == 9
    assert [largest_divisor(12, most) for most in (1, 5, 7, 11, 12, 99)] == [1, 4, 6, 6, 12, 12]


def _machine(folder: Path, patch: pytest.MonkeyPatch, **files: str) -> None:
    """A machine whose /proc and /sys/fs/cgroup hold these files; dots in names are slashes."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("-", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")
    patch.setattr(free_memory, "_ROOT", folder)
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
