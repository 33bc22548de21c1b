"""The measurements for machine_speed.py. Each takes some hundredths of a second, and calls tfkit's own modules where possible."""

import math
import time
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tfkit.generation.decoding import generate
from tfkit.model.attention import attend
from tfkit.model.config import ModelConfig
from tfkit.model.norm import RMSNorm
from tfkit.model.transformer import Transformer, build
from tfkit.recipe.schema.output_sections import GenerationSection
from tfkit.training.flops import visible_pairs

SECONDS = 0.04  # how long each operation is repeated, after an untimed repetition
_ROWS = 1024  # positions: rows of the left factor of a matrix product, or queries in all rows of attention
_LAYERS = 4  # blocks of the tiny model
_TOKENS = 4  # tokens generated in each row
_BATCH = 64  # rows of a batch in generation


def rate(amount: float, work: Callable[[], Tensor | None]) -> float:
    """Return how much the fastest call of `work` processes per second, the wait for its result included; each call processes `amount`."""
    _wait(work())
    best, end = math.inf, time.perf_counter() + SECONDS
    while time.perf_counter() < end or math.isinf(best):
        start = time.perf_counter()
        _wait(work())
        best = min(best, time.perf_counter() - start)
    return amount / max(best, 1e-9)


def _wait(result: Tensor | None) -> None:
    if result is not None:
        result.reshape(-1)[0].item()  # returns when a GPU has computed the result


def product(device: torch.device, precision: torch.dtype, width: int) -> float:
    """Return the FLOP/s of a matrix product and the gradients of both factors."""
    rows, matrix, gradient = _factors(device, precision, width)
    return rate(6.0 * _ROWS * width * width, lambda: torch.autograd.grad(F.linear(rows, matrix), [rows, matrix], gradient)[1])


def forward(device: torch.device, precision: torch.dtype) -> float:
    """Return the FLOP/s of a matrix product without gradients, divided by the FLOP/s with gradients."""
    width = 512
    rows, matrix, _ = _factors(device, precision, width)
    with torch.no_grad():
        alone = rate(2.0 * _ROWS * width * width, lambda: F.linear(rows, matrix))
    return alone / product(device, precision, width)


def _factors(device: torch.device, precision: torch.dtype, width: int) -> tuple[Tensor, Tensor, Tensor]:
    rows, matrix = (torch.ones(size, width, dtype=precision, device=device, requires_grad=True) for size in (_ROWS, width))
    return rows, matrix, torch.ones(_ROWS, width, dtype=precision, device=device)


def attention(device: torch.device, precision: torch.dtype, length: int, head_dim: int, *, causal: bool) -> float:
    """Return the FLOP/s of attention, forward and backward, in `attend`, as in trainings; only visible pairs of positions are counted."""
    rows, heads = max(1, _ROWS // length), 4
    inputs = _queries_keys_values(device, precision, rows, heads, length, head_dim)
    flops = 3 * 2 * 2.0 * rows * heads * head_dim * visible_pairs(length, length, causal=causal, window=None)
    return rate(flops, lambda: torch.autograd.grad(attend(*inputs, None, 0.0, causal=causal).sum(), inputs)[0])


def scores(device: torch.device, precision: torch.dtype, *, dropout: float) -> float:
    """Return the scores per second of attention with dropout or, if that is 0, a learned bias: no fused kernel on a CPU supports either."""
    rows, heads, length = 2, 4, 256
    inputs = _queries_keys_values(device, precision, rows, heads, length, 32)
    bias = None if dropout else torch.zeros(1, heads, length, length, dtype=precision, device=device, requires_grad=True)
    parameters = [*inputs, *([] if bias is None else [bias])]
    return rate(
        float(rows * heads * length**2),
        lambda: torch.autograd.grad(attend(*inputs, None, dropout, bias=bias, causal=False).sum(), parameters)[0],
    )


def _queries_keys_values(device: torch.device, precision: torch.dtype, *shape: int) -> tuple[Tensor, Tensor, Tensor]:
    queries, keys, values = (torch.ones(shape, dtype=precision, device=device, requires_grad=True) for _ in range(3))
    return queries, keys, values


def elements(device: torch.device, precision: torch.dtype, kind: Literal["layer", "rms"]) -> float:
    """Return the elements per second, forward and backward, through a norm, an activation function and a sum, in large tensors."""
    states = torch.ones(4 * _ROWS, 512, dtype=precision, device=device, requires_grad=True)
    norm = (RMSNorm(512, 1e-6) if kind == "rms" else torch.nn.LayerNorm(512)).to(device=device, dtype=precision)

    def work() -> Tensor:
        return torch.autograd.grad((states + F.gelu(norm(states))).sum(), [states, *norm.parameters()])[0]

    return rate(states.numel(), work)


def logits(device: torch.device, precision: torch.dtype) -> float:
    """Return the elements per second through a softmax in float32 and a subtraction, as for the gradient of a cross-entropy."""
    values = torch.ones(64, 8192, dtype=precision, device=device)
    return rate(values.numel(), lambda: values.log_softmax(-1, dtype=torch.float32).exp_().sub_(1e-4))


def updates(device: torch.device) -> float:
    """Return the parameters per second that an optimizer with two moments updates."""
    weights, gradient, first, second = (torch.ones(2**20, device=device) for _ in range(4))

    def work() -> Tensor:
        first.lerp_(gradient, 0.1)
        second.mul_(0.99).addcmul_(gradient, gradient, value=0.01)
        return weights.mul_(0.999).addcdiv_(first, second.sqrt().add_(1e-8), value=-1e-6)

    return rate(weights.numel(), work)


def blocks(device: torch.device, precision: torch.dtype) -> float:
    """Return how many blocks of a tiny model (embedding and head count as one) run per second, forward and backward: the call overhead."""
    model = _tiny(device, precision)
    ids = torch.zeros(1, 8, dtype=torch.long, device=device)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def work() -> Tensor:
        return torch.autograd.grad(model(ids).logits.float().sum(), parameters)[0]

    return rate(_LAYERS + 1, work)


def writing(device: torch.device, precision: torch.dtype) -> dict[str, float]:
    """Return how many blocks of a tiny model run per second of generation, and how many tokens are drawn for rows other than the first."""
    model = _tiny(device, precision)
    settings = GenerationSection(max_new_tokens=_TOKENS)

    def generate_rows(rows: int) -> None:
        generate(model, [[1, 2]] * rows, settings)

    single, batch = (1.0 / rate(1.0, lambda rows=rows: generate_rows(rows)) for rows in (1, _BATCH))  # type: ignore[misc]
    token = max((batch - single) / (_BATCH - 1), single / 1000) / _TOKENS
    return {"written_blocks": (_LAYERS + 1) * _TOKENS / single, "sampled": 1.0 / token}


def weight_bytes(device: torch.device, precision: torch.dtype) -> float:
    """Return how many bytes of a weight matrix are processed per second when it is multiplied by the vector of a single position."""
    matrix, state = (torch.ones(rows, 2048, dtype=precision, device=device) for rows in (2048, 1))
    return rate(matrix.numel() * matrix.element_size(), lambda: F.linear(state, matrix))


def _tiny(device: torch.device, precision: torch.dtype) -> Transformer:
    values = {"vocab_size": 16, "context_length": 16, "encoder_layers": 0, "decoder_layers": _LAYERS, "dim": 8, "num_heads": 1}
    sections = {
        "position": {"kind": "learned"},
        "norm": {"kind": "layer"},
        "mlp": {"activation": "gelu", "bias": True},
        "head": {"tied": True},
    }
    return build(ModelConfig.model_validate(values | sections), seed=1).to(device=device, dtype=precision)
