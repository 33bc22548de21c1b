"""An estimate of the memory of a step, for `tfkit plan`, and to choose the size of micro-batches on a CPU. On a GPU, sizes are tried out.

A rank (a process of the training) holds the weights of each model and, if it trains the model, gradients, optimizer state and perhaps a
moving average (`ModelBytes`). A micro-batch adds activations and logits. The activations of a row are estimated from the config alone or,
once the model is built, measured.
"""

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from tfkit.model.config import ModelConfig
from tfkit.model.init import BLOCK
from tfkit.model.query_blocks import QUERY_BLOCK
from tfkit.objectives.objective import Batch, Objective
from tfkit.objectives.vocabulary_loss import LOGITS_BYTES
from tfkit.recipe.schema.optimizer_sections import AdafactorSection, AdamWSection, OptimizerSection
from tfkit.training.loss_module import LossModule
from tfkit.training.optimizer import reads_narrow_gradients, state_numel
from tfkit.training.precision import HOLDS_NARROW_GRADIENTS

# The limits of an automatic micro-batch, in tokens and in bytes of activations, margin included: a larger micro-batch is no faster.
# SmolLM2-135M takes 1.2 MB per token on a CPU, so its limit is 3,600 tokens.
AUTO_MICRO_BATCH_TOKENS = 16_384
AUTO_MICRO_BATCH_BYTES = 4 * 2**30
_PROBE_TOKENS = 16  # if each token has its own label, only the activations of this many first tokens of a row are measured
_AGAIN = 1.75  # activations and gradients of a recomputed block take this many times the memory of its activations
_DROPOUT_BYTES = 3 * 4  # bytes kept for each pair of positions in each head, if attention has dropout on a CPU: three tensors in fp32
_MARGIN = 1.6  # factor for an operation's temporary tensors: the measured peak is 1.2 to 1.5 times the tensors kept by autograd
_LIKELY = 1 / _MARGIN  # removes the margin, for a likely peak: an estimate from few tokens is even so a seventh too high for a long row


@dataclass(frozen=True)
class ModelBytes:
    """The bytes of a model on a rank, by kind of tensor. The bytes of several models can be added."""

    weights: int = 0  # fp32 master weights, and frozen weights in the run's precision if checkpoints do not hold them
    working: int = 0  # working weights, in bf16; none if the run's precision is fp32, or if weights are sharded
    gradients: int = 0  # of all trained weights, at the end of the backward pass
    optimizer: int = 0  # the optimizer's state
    mean: int = 0  # the moving average of the weights
    gathered: int = 0  # sharded weights that a micro-batch gathers: those outside the blocks, and one block at a time or all blocks
    root_gradients: int = 0  # gradients of the gathered weights outside the blocks, until the ranks have summed them

    @property
    def held(self) -> int:
        """The bytes that the rank holds between two steps."""
        return self.weights + self.working + self.optimizer + self.mean

    @property
    def in_step(self) -> int:
        """The bytes that a step takes in addition to `held`, without activations and logits."""
        return self.gradients + self.gathered + self.root_gradients

    def __add__(self, other: "ModelBytes") -> "ModelBytes":
        """Add the bytes of each kind."""
        return ModelBytes(*map(sum, zip(astuple(self), astuple(other), strict=True)))


def model_bytes(
    parameters: Mapping[str, Tensor],
    dtype: torch.dtype,
    section: OptimizerSection | None,
    *,
    has_mean: bool = False,
    whole: bool = True,
    shards: int = 1,
    reshard: bool = True,
    sums_gradients: bool = True,
) -> ModelBytes:
    """Return the bytes of a model on rank 0, whose shards are the largest.

    `parameters`: by name, with the shapes of the whole model; they may be on the meta device. `dtype`: the type in which the model
    computes. `section`: the recipe's optimizer; None for a model that is not trained. `has_mean`: whether there is a moving average of
    the weights. `whole`: whether frozen weights are in fp32, too. `shards`: the number of ranks over which weights are sharded. `reshard`:
    whether a block's weights are freed after its forward pass. `sums_gradients`: whether gradients of micro-batches or ranks are added.
    """
    parts = {name: torch.Size((-(-one.shape[0] // shards), *one.shape[1:])) if one.dim() else one.shape for name, one in parameters.items()}
    trained = {name: part for name, part in parts.items() if section is not None and parameters[name].requires_grad}
    numbers, trained_numbers = (sum(part.numel() for part in some.values()) for some in (parts, trained))
    in_fp32 = numbers if whole or dtype == torch.float32 else trained_numbers
    weights = 4 * in_fp32 + dtype.itemsize * (numbers - in_fp32)
    units = Units.of(parameters)
    in_turn = units.largest if reshard else units.blocks
    gathered, root = (dtype.itemsize * (in_turn + units.root), dtype.itemsize * units.root) if shards > 1 else (0, 0)
    if section is None:
        return ModelBytes(weights, gathered=gathered)
    has_copy = shards == 1 and dtype != torch.float32
    stays_narrow = has_copy and HOLDS_NARROW_GRADIENTS and not sums_gradients
    narrow = sum(part.numel() for name, part in trained.items() if stays_narrow and reads_narrow_gradients(name, part, section))
    # Adafactor's means over rows and columns are not sharded: each rank holds them whole.
    states = {
        name: parameters[name].shape if isinstance(section, AdafactorSection) and len(part) > 1 else part for name, part in trained.items()
    }
    return ModelBytes(
        weights=weights,
        working=dtype.itemsize * in_fp32 if has_copy else 0,
        gradients=4 * (trained_numbers - narrow) + dtype.itemsize * narrow,
        optimizer=4 * state_numel(states, section),
        mean=4 * trained_numbers if has_mean else 0,
        gathered=gathered,
        root_gradients=root if trained_numbers else 0,
    )


def trained_bytes(parameters: int, dtype: torch.dtype = torch.bfloat16) -> int:
    """Return the bytes that training `parameters` weights with AdamW needs: master and working weights, gradients and two moments."""
    sizes = model_bytes({"": torch.empty(parameters, device="meta", requires_grad=True)}, dtype, AdamWSection())
    return sizes.held + sizes.in_step


@dataclass(frozen=True)
class Units:
    """The sizes of the units of a sharded model that ranks gather as a whole: each block, and the root (all parameters outside blocks)."""

    count: int  # the number of blocks
    largest: int  # the number of weights in the largest block
    blocks: int  # the number of weights in all blocks
    root: int  # the number of weights in the root, which stays gathered from the forward to the end of the backward pass

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor]) -> "Units":
        """Return the units of a model with these parameters."""
        sizes: Counter[str] = Counter()
        for name, parameter in parameters.items():
            sizes[found[0] if (found := BLOCK.match(name)) else ""] += parameter.numel()
        root = sizes.pop("", 0)
        return cls(len(sizes), max(sizes.values(), default=0), sum(sizes.values()), root)


def choose_micro_batch(unit: int, longest: int, row_bytes: int, left: int | None, ranks: int = 1) -> int:
    """Choose the number of rows in a micro-batch: the largest divisor of unit / ranks that fits into memory and within the limits
    AUTO_MICRO_BATCH_TOKENS and AUTO_MICRO_BATCH_BYTES; at least 1.

    `unit`: the number of rows of which every batch size is a multiple; `longest`: tokens of the longest row; `row_bytes`: bytes of its
    activations; `left`: free bytes for activations and for two blocks of logits, of LOGITS_BYTES each; None if unknown.
    """
    useful = min(AUTO_MICRO_BATCH_TOKENS // longest, AUTO_MICRO_BATCH_BYTES // max(1, row_bytes))
    fitting = sys.maxsize if left is None else (left - 2 * LOGITS_BYTES) // max(1, row_bytes)
    return largest_divisor(max(1, unit // ranks), max(1, min(useful, fitting)))


def likely_peak(held: int, to_come: int, activations: int, logits: int) -> int:
    """Return the likely peak memory of a training run, in bytes.

    `held`: what the process holds so far; `to_come`: what weights, gradients and optimizer state will add; `activations`: of a micro-batch,
    as estimated with the margin, which is taken out here; `logits`: of a micro-batch, counted as two blocks of at most LOGITS_BYTES each.
    """
    return held + to_come + int(activations * _LIKELY) + 2 * min(logits, LOGITS_BYTES)


def logits_bytes(config: ModelConfig, positions: int, itemsize: int) -> int:
    """Return the bytes of the logits of `positions` positions over the vocabulary; 0 for a head without such logits."""
    return positions * config.vocab_size * itemsize if has_logits(config) else 0


def has_logits(config: ModelConfig) -> bool:
    """Whether the head of a model has logits over its vocabulary."""
    return config.head.kind in ("lm", "masked_lm")


def planned_row_bytes(
    config: ModelConfig, objective: Objective, length: int, itemsize: int, *, has_fused_dropout: bool, checkpointing: bool
) -> int:
    """Estimate the bytes of a row's activations in the run's model and the objective's other models, from configs, margin included."""
    trained = [config, *(companion.model.config for companion in objective.companions if companion.trained)]
    rows = sum(
        activation_bytes_per_row(one, length, itemsize, has_fused_dropout=has_fused_dropout, checkpointing=checkpointing) for one in trained
    )
    return rows + companion_bytes_per_row(objective, length, itemsize)


def companion_bytes_per_row(objective: Objective, length: int, itemsize: int) -> int:
    """Estimate the peak bytes of a row in forward passes without gradients of the objective's companions (its other models): for each the
    mask, the residual stream, and the larger of one block's MLP and its soft-capped attention scores.

    The activations that autograd keeps for a trained companion are not included: they are counted with those of the model.
    """
    total = 0
    for config in (companion.model.config for companion in objective.companions):
        scores = config.num_heads * length * 3 if config.attention.softcap is not None else 0
        width = 4 * config.dim + max(3 * config.active_hidden_dim, scores)
        total += int(_MARGIN * length * itemsize * width) + length**2
    return total


def activation_bytes_per_token(config: ModelConfig, *, checkpointing: bool = False) -> int:
    """Estimate the bytes of a token's activations in fp32 from the model's config alone, margin included.

    `checkpointing`: of all blocks only their inputs are kept; activations and gradients exist for one block at a time.
    """
    layers = config.encoder_layers + config.decoder_layers
    copies = 2 * config.mlp.experts.active if config.mlp.experts is not None else 0  # each expert of a token has its own input and output
    block = (10 + copies) * config.dim + 3 * config.active_hidden_dim
    numbers = _AGAIN * block + layers * config.dim if checkpointing else layers * block
    return int(4 * numbers * _MARGIN)


def activation_bytes_per_row(
    config: ModelConfig, length: int, itemsize: int, *, has_fused_dropout: bool, checkpointing: bool = False
) -> int:
    """Estimate the bytes of a row's activations, in a precision of `itemsize` bytes, from the model's config alone, margin included.

    Without `has_fused_dropout`, as on a CPU, attention weights before and after its dropout, and the dropout mask, are kept in fp32.
    """
    squares = 0 if has_fused_dropout or not config.dropout.attention else _DROPOUT_BYTES * length**2
    blocks = _AGAIN if checkpointing else config.encoder_layers + config.decoder_layers
    tokens = activation_bytes_per_token(config, checkpointing=checkpointing) * length * itemsize // 4
    return tokens + int(blocks * config.num_heads * squares * _MARGIN)


def step_bytes_per_row(loss_module: LossModule, batch: Batch) -> int:
    """Estimate the peak bytes of a row's activations, from the tensors that autograd keeps for `batch`, a real row, or its first tokens."""
    model = loss_module.model
    length, config = batch.input_ids.shape[1], model.config
    # If each position has a label of its own, the first tokens of a row are enough; other rows are measured whole.
    can_cut = batch.labels.shape == batch.input_ids.shape and batch.decoder_input_ids is None and not batch.extras
    probed = min(length, _PROBE_TOKENS) if can_cut else length
    row = batch.cropped(probed) if can_cut else batch
    kept = _kept_bytes(loss_module, row) * length / probed
    encoder, decoder = (length if layers else 0 for layers in (config.encoder_layers, config.decoder_layers))
    if batch.decoder_input_ids is not None:
        decoder = batch.decoder_input_ids.shape[1]
    blocks: float = config.encoder_layers + config.decoder_layers
    itemsize = next(model.parameters()).element_size()
    if any(stack.activation_checkpointing for stack in model.stacks):
        # With checkpointing, only the inputs of blocks are kept; activations and gradients exist for one block at a time.
        between = (config.encoder_layers * encoder + config.decoder_layers * decoder) * config.dim * itemsize
        kept = _AGAIN * kept / blocks + between
        blocks = _AGAIN
    squares: float = encoder**2 + decoder**2  # the masks, one byte per entry
    if config.dropout.attention and can_cut:  # no fused kernel: dropout keeps tensors of length^2 numbers for each head
        squares *= 1 + blocks * config.num_heads * _DROPOUT_BYTES
    return int((kept + _score_bytes(config, max(encoder, decoder), itemsize)) * _MARGIN + squares)


def _score_bytes(config: ModelConfig, keys: int, itemsize: int) -> int:
    """Return the bytes that attention in blocks of queries (model/query_blocks.py) holds at a time for a row: the gradients of keys and
    values in float32, and the scores of a block three times. 0 in fp32 and with dropout, where attention is computed otherwise.
    """
    if itemsize == 4 or config.dropout.attention:
        return 0
    return keys * (2 * 4 * config.num_kv_heads * config.head_dim + 3 * itemsize * QUERY_BLOCK * config.num_heads)


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
        losses = loss_module(batch)  # `losses` keeps every storage alive, so that no address is reused
    for stack, setting in zip(model.stacks, checkpointing, strict=True):
        stack.activation_checkpointing = setting
    del losses
    return sum(kept.values())


def largest_divisor(number: int, most: int) -> int:
    """Return the largest divisor of `number` that is at most `most`."""
    return next(size for size in range(min(number, most), 0, -1) if number % size == 0)
