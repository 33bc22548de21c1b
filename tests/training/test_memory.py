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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the peak of a process")
@pytest.mark.slow  # a process each
@pytest.mark.parametrize("family", peak_of_a_step.MODELS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kept", ["kept", "checkpointing"])
def test_an_estimate_holds_for_a_real_step(family: str, dtype: str, kept: str) -> None:
    """A row's estimate against what 32 more rows really take at the peak."""
    taking = peak_of_a_step.made(family, dtype, kept == "checkpointing")
    estimate = memory.step_bytes_per_row(taking.loss_module, peak_of_a_step.batch(family, 1))
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
    estimate = memory.step_bytes_per_row(taking.loss_module, peak_of_a_step.batch("gpt2", 1)) + memory.companion_bytes_per_row(
        taking.objective, 256, 4
    )
    measured = measured_bytes_per_row(kind)
    assert measured < estimate < 2.2 * measured, (estimate, measured)


def test_a_teachers_weights_are_not_counted_for_each_row() -> None:
    """Autograd holds the hidden states that its logits are made of, and they alone: 256 positions of 768 numbers, with the margin."""
    taking, row = peak_of_a_step.made_taught("taught"), peak_of_a_step.batch("gpt2", 1)
    alone = memory.step_bytes_per_row(LossModule(taking.model, CausalLM()), row)
    assert 0 < memory.step_bytes_per_row(taking.loss_module, row) - alone < 2 * 256 * 768 * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plan_counts_what_dropout_of_attention_keeps_on_a_cpu(dtype: torch.dtype) -> None:
    """With the square of the length, and beside the activations that a model without has."""
    plain, dropping = config(GPT2, context_length=512), config(GPT2, context_length=512, dropout={"attention": 0.1})
    for length in (256, 512):
        ids = torch.ones(1, length, dtype=torch.long)
        modules = [stepper(build(one, seed=1), dtype=dtype).loss_module for one in (plain, dropping)]
        kept = [memory._kept_bytes(one, Batch(ids, ids)) for one in modules]
        planned = [memory.activation_bytes_per_row(one, length, dtype.itemsize, has_fused_dropout=False) for one in (plain, dropping)]
        assert (planned[1] - planned[0]) / memory._MARGIN == pytest.approx(kept[1] - kept[0], rel=0.1)
        tried = [memory.step_bytes_per_row(one, Batch(ids, ids)) for one in modules]  # from the beginning of the row
        assert tried[1] - tried[0] == pytest.approx(kept[1] - kept[0], rel=0.15)
        scores = memory._score_bytes(plain, length, dtype.itemsize)
        assert kept[0] < (tried[0] - length**2) / memory._MARGIN - scores < 1.5 * kept[0]
    in_half = memory.activation_bytes_per_row(dropping, 512, 2, has_fused_dropout=True)
    assert in_half == memory.activation_bytes_per_row(plain, 512, 4, has_fused_dropout=False) / 2


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_plan_counts_what_is_computed_again(dropout: float) -> None:
    """Of eight blocks, all but one with its gradients and the tensors between them: as far as what is tried before a run."""
    deep = config(GPT2, context_length=128, decoder_layers=8, dropout={"attention": dropout})
    ids, planned, tried = torch.ones(1, 128, dtype=torch.long), [], []
    for checkpointing in (False, True):
        module = stepper(build(deep, seed=1)).loss_module
        module.model.decoder.activation_checkpointing = checkpointing
        tried.append(memory.step_bytes_per_row(module, Batch(ids, ids)))
        planned.append(memory.planned_row_bytes(deep, module.objective, 128, 4, has_fused_dropout=False, checkpointing=checkpointing))
    assert tried[1] < tried[0] / 2
    assert planned[1] / planned[0] == pytest.approx(tried[1] / tried[0], rel=0.25)


def test_nothing_of_the_estimate_is_left() -> None:
    """An operation that keeps its own result, such as a softmax, must not keep itself: it would keep the weights, which ranks share."""
    model = build(config(GPT2), seed=1)
    model.decoder.activation_checkpointing = True
    assert memory.step_bytes_per_row(LossModule(model, CausalLM()), batches(CausalLM(), 4)[0]) > 0
    assert model.decoder.activation_checkpointing
    assert all(parameter.grad is None for parameter in model.parameters())
    left = [ref(parameter) for parameter in model.parameters()]
    del model
    gc.collect()
    assert not any(one() is not None for one in left)


def test_the_likely_peak() -> None:
    """The memory in use and the memory to come: the activations without their margin, and at most two blocks of logits."""
    assert memory.likely_peak(1000, 200, 160, 10) == 1000 + 200 + 100 + 20
    assert memory.likely_peak(0, 0, 0, 10**12) == 2 * memory.LOGITS_BYTES
    held = resident_bytes()
    assert held is None or 10**7 < held < 10**11


def test_rows_that_fit() -> None:
    logits = 2 * memory.LOGITS_BYTES
    for free, rows in ((logits + 95, 9), (logits + 89, 3), (logits - 1, 1), (-5, 1), (None, 9)):  # 3 divides 9
        assert memory.choose_micro_batch(9, 1, 10, free) == rows
    # At most 16,384 tokens: 48 is the largest divisor of 96 up to 64, and 97 a prime.
    for batch_size, length, rows in ((32, 256, 32), (128, 256, 64), (96, 256, 48), (97, 256, 1), (6, 16_384, 1), (6, 100_000, 1)):
        assert memory.choose_micro_batch(batch_size, length, 0, None) == rows
    for row_bytes, rows in ((2**26, 64), (2**28, 16), (2**40, 1)):  # at most 4 GiB of activations
        assert memory.choose_micro_batch(128, 256, row_bytes, None) == rows
    assert [memory.largest_divisor(12, most) for most in (1, 5, 7, 11, 12, 99)] == [1, 4, 6, 6, 12, 12]


MEMINFO = "MemTotal: 9000 kB\nMemFree: 100 kB\nMemAvailable: 8000 kB\nSwapFree: 500 kB\n"
V1, V2 = "sys/fs/cgroup/memory/", "sys/fs/cgroup/jobs/"
GROUP_1 = {"proc/self/cgroup": "3:cpu,cpuacct:/x\n5:memory:/job\n", V1 + "memory.limit_in_bytes": str(2**63 - 4096)}
GROUP_1 |= {V1 + "job/memory.limit_in_bytes": "500000", V1 + "job/memory.usage_in_bytes": "100000"}
GROUP_1 |= {V1 + "job/memory.stat": "total_inactive_file 1000\n"}
# The page cache may go, and the group above counts as well.
GROUP_2 = {"proc/self/cgroup": "0::/jobs/mine\n", V2 + "memory.max": "1000000", V2 + "memory.current": "900000"}
GROUP_2 |= {V2 + "memory.stat": "anon 5\ninactive_file 200000\n", V2 + "mine/memory.stat": "inactive_file 0\n"}
GROUP_2 |= {V2 + "mine/memory.max": "max", V2 + "mine/memory.current": "1"}
PAGES = {"proc/self/statm": "10 5 1 1 0 1 0"}


@pytest.mark.parametrize(
    ("files", "available"),
    [({}, 8000 * 1024), (GROUP_2, 300_000), (GROUP_1, 401_000), (PAGES, 4_000_000 - 10 * resource.getpagesize())],
    ids=["machine", "group", "group of version 1", "ulimit"],
)
def test_the_memory_that_is_available(files: dict[str, str], available: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 4_000_000 if files is PAGES else resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    monkeypatch.setattr(free_memory, "_ROOT", tmp_path)
    assert available_bytes() is None or limit != resource.RLIM_INFINITY  # not Linux
    for name, text in (files | {"proc/meminfo": MEMINFO}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    assert available_bytes() == available
    assert available_bytes(swap=True) == (available if files else 8500 * 1024)
