"""The memory that a step needs and the memory available, from which a CPU's micro-batch is chosen. On a GPU, sizes are tried out."""

import contextlib
import resource
import sys
from pathlib import Path

import torch
from torch import Tensor

from tfkit.model.config import ModelConfig
from tfkit.objectives.objective import Batch
from tfkit.objectives.vocabulary_loss import LOGITS_BYTES
from tfkit.training.loss_module import LossModule

_ROOT = Path("/")
_PAGE = resource.getpagesize()
_PROBE_TOKENS = 16
_DROPOUT_BYTES = 3 * 4  # per pair of positions and head, if attention has dropout on a CPU
_MARGIN = 1.6  # for temporary tensors within an operation: the measured peak is 1.2 to 1.5 times what autograd keeps
_LIKELY = 1 / _MARGIN  # the likely fraction of an estimate with its margin: the probe's few tokens overestimate a long row by a seventh


def available_bytes(swap: bool = False) -> int | None:
    """Return how many bytes this process may still allocate, given the machine (and its `swap`), its control groups and its own limit.

    None if all of them are unknown.
    """
    known = [limit for limit in (_machine(swap), _control_group(), _address_space()) if limit is not None]
    return max(0, min(known)) if known else None


def resident_bytes() -> int | None:
    """Return the resident memory of this process in bytes; None without /proc."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((_ROOT / "proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    return None


def likely_peak(held: int, to_come: int, micro_batch: int, logits: int) -> int:
    """Return the likely peak memory of a training run, in bytes.

    `held`: the process's memory before the first step; `to_come`: gradients and the optimizer's state; `micro_batch`: the activations as
    estimated by `step_bytes_per_row`, whose margin is removed; `logits`: all logits, of which at most two blocks are held at once.
    """
    return held + to_come + int(micro_batch * _LIKELY) + 2 * min(logits, LOGITS_BYTES)


def state_bytes(parameters: int, trained: int, kept: int, dtype: torch.dtype, *, whole: bool = True) -> int:
    """Return the bytes of weights, gradients of `trained` parameters and `kept` further numbers in fp32, and of a working copy in `dtype`.

    Without `whole`, frozen parameters have only a working copy, as in `Weights`, but are first loaded in fp32.
    """
    working = 0 if dtype == torch.float32 else parameters * dtype.itemsize
    if whole or not working:
        return 4 * (parameters + trained + kept) + working
    return max(4 * parameters, 4 * (2 * trained + kept) + working)


def activation_bytes_per_token(config: ModelConfig) -> int:
    """Estimate the bytes of a token's activations in fp32 from the model's config alone, margin included."""
    layers = config.encoder_layers + config.decoder_layers
    return int(4 * layers * (10 * config.dim + 3 * config.hidden_dim) * _MARGIN)


def activation_bytes_per_row(config: ModelConfig, length: int, itemsize: int, *, has_fused_dropout: bool) -> int:
    """Estimate the bytes of a row's activations, in a precision of `itemsize` bytes, from the model's config alone, margin included.

    On a CPU no fused attention kernel supports dropout: the probabilities, dropout's mask and its result are kept, always in fp32.
    """
    squares = 0 if has_fused_dropout or not config.dropout.attention else _DROPOUT_BYTES * length**2
    layers = config.encoder_layers + config.decoder_layers
    return activation_bytes_per_token(config) * length * itemsize // 4 + int(layers * config.num_heads * squares * _MARGIN)


def step_bytes_per_row(loss_module: LossModule, batch: Batch) -> int:
    """Estimate the peak bytes of a row's activations, from what autograd keeps for a real row or for its first tokens."""
    model = loss_module.model
    length, config = batch.input_ids.shape[1], model.config
    # If each position has its label, the first tokens of a row are enough; other rows are measured whole.
    can_cut = batch.labels.shape == batch.input_ids.shape and batch.decoder_input_ids is None and not batch.extras
    probed = min(length, _PROBE_TOKENS) if can_cut else length
    row = batch.cropped(probed) if can_cut else batch
    kept = _kept_bytes(loss_module, row) * length / probed
    encoder, decoder = (length if layers else 0 for layers in (config.encoder_layers, config.decoder_layers))
    if batch.decoder_input_ids is not None:
        decoder = batch.decoder_input_ids.shape[1]
    layers = config.encoder_layers + config.decoder_layers
    if any(stack.activation_checkpointing for stack in model.stacks):
        # The tensors between blocks, and one block with its gradients at a time.
        between = (config.encoder_layers * encoder + config.decoder_layers * decoder) * config.dim * next(model.parameters()).element_size()
        kept = 2 * kept / layers + between
    squares = encoder**2 + decoder**2  # the masks, one byte per entry
    if config.dropout.attention and can_cut:  # without a fused kernel, probabilities, mask and result grow with the square of the length
        squares *= 1 + layers * config.num_heads * _DROPOUT_BYTES
    return int(kept * _MARGIN) + squares


def _kept_bytes(loss_module: LossModule, batch: Batch) -> int:
    """Return the bytes that autograd keeps for the backward pass of this batch, apart from weights."""
    model = loss_module.model
    models = [model, *(companion.model for companion in loss_module.objective.companions if companion.trained)]
    weights = {parameter.untyped_storage().data_ptr() for trained in models for parameter in trained.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # otherwise an operation that saves its own result would form a cycle, and never be freed

    loss_module.train(loss_module.objective.draws_dropout)
    checkpointing = [stack.activation_checkpointing for stack in model.stacks]
    for stack in model.stacks:
        stack.activation_checkpointing = False
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = loss_module(batch)  # while it is held, every storage is alive, so that no address is reused
    for stack, setting in zip(model.stacks, checkpointing, strict=True):
        stack.activation_checkpointing = setting
    del losses
    return sum(kept.values())


def rows_that_fit(row_bytes: int, budget: int | None) -> int:
    """Return how many rows fit the budget with their activations and two blocks of logits; at least 1. `budget` None: no limit."""
    return sys.maxsize if budget is None else max(1, (budget - 2 * LOGITS_BYTES) // max(1, row_bytes))


def largest_divisor(number: int, most: int) -> int:
    """Return the largest divisor of `number` that is at most `most`."""
    return next(size for size in range(min(number, most), 0, -1) if number % size == 0)


def _machine(swap: bool) -> int | None:
    """Return the machine's memory that is available without swapping, and with `swap` the free swap; None without /proc."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = (line.split() for line in (_ROOT / "proc/meminfo").read_text(encoding="ascii").splitlines())
        fields = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}
        return fields["MemAvailable"] + (fields.get("SwapFree", 0) if swap else 0)
    return None


def _control_group() -> int | None:
    """Return the memory left in the control groups of this process (version 2, else 1), such as a container's or a batch system's."""
    least: int | None = None
    for limit, usage, stat in _control_group_files():
        with contextlib.suppress(OSError, ValueError):
            maximum = int(limit.read_text(encoding="ascii"))  # ValueError for "max"
            if maximum < 1 << 60:  # without a limit, version 1 writes a larger number
                left = maximum - int(usage.read_text(encoding="ascii")) + _reclaimable(stat)
                least = left if least is None else min(least, left)
    return least


def _control_group_files() -> list[tuple[Path, Path, Path]]:
    """Return the files with the limit, the usage and the statistics of each control group of this process and its parents."""
    files = []
    with contextlib.suppress(OSError):
        for line in (_ROOT / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                root, names = _ROOT / "sys/fs/cgroup", ("memory.max", "memory.current", "memory.stat")
            elif "memory" in controllers.split(","):
                root, names = _ROOT / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
            else:
                continue
            group = root / path.lstrip("/")
            for folder in (group, *group.parents):
                if folder == root.parent:
                    break
                files.append((folder / names[0], folder / names[1], folder / names[2]))
    return files


def _reclaimable(stat: Path) -> int:
    """Return the bytes of page cache, which count as used but are freed on demand."""
    for line in stat.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def _address_space() -> int | None:
    """Return the address space that `ulimit -v` leaves; None without such a limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY or sys.platform != "linux":
        return None
    with contextlib.suppress(OSError, ValueError):
        return limit - int((_ROOT / "proc/self/statm").read_text(encoding="ascii").split()[0]) * _PAGE
    return None
