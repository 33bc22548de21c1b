"""token_log_probs against torch's cross-entropy: values and gradients, with kept logits or not, in blocks of rows or entries."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tfkit.objectives import log_probs, vocabulary_loss
from tfkit.objectives.log_probs import token_log_probs, token_scores

ROWS, DIM, VOCABULARY = 37, 16, 101


@dataclass
class Matrix:
    """A head that is a matrix and nothing else."""

    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None

    def prepare(self, hidden: Tensor) -> Tensor:
        return hidden


def problem(dtype: torch.dtype, scale: float = 1.0) -> tuple[Tensor, Matrix, Tensor, Tensor]:
    """Hidden states (N, D), a head (V, D), labels (N,) and the gradient (N,) that comes from above; some labels occur twice."""
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(ROWS, DIM, generator=generator, dtype=torch.float64) * scale
    weight = torch.randn(VOCABULARY, DIM, generator=generator, dtype=torch.float64)
    labels = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    labels[5:8] = labels[4]
    above = torch.randn(ROWS, generator=generator, dtype=torch.float64)
    return hidden.to(dtype).requires_grad_(), Matrix(weight.to(dtype).requires_grad_()), labels, above


def solve(dtype: torch.dtype, scale: float = 1.0) -> tuple[Tensor, ...]:
    """Ours: values, gradient of the hidden states, gradient of the matrix."""
    hidden, head, labels, above = problem(dtype, scale)
    found = token_log_probs(head, hidden, labels)
    return (found.detach(), *torch.autograd.grad((found * above).sum(), [hidden, head.weight]))


def exact(dtype: torch.dtype, scale: float = 1.0) -> tuple[Tensor, ...]:
    """The same by F.cross_entropy in float64, from the numbers as rounded to `dtype`."""
    hidden, head, labels, above = problem(dtype, scale)
    hidden, weight = hidden.detach().double().requires_grad_(), head.weight.detach().double().requires_grad_()
    found = -F.cross_entropy(hidden @ weight.t(), labels, reduction="none")
    return (found.detach(), *torch.autograd.grad((found * above).sum(), [hidden, weight]))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.fixture(params=["kept", "kept, gradient in blocks", "blocks of 5", "blocks of 1", "a piece a row", "entries"])
def bounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How much is held at once. The bound is in bytes, so blocks are half as long in float64."""
    match request.param:
        case "kept, gradient in blocks":
            monkeypatch.setattr(vocabulary_loss, "_BLOCK", 8)
        case "blocks of 5":
            monkeypatch.setattr(vocabulary_loss, "LOGITS_BYTES", 5 * VOCABULARY * 4)
        case "blocks of 1":
            monkeypatch.setattr(vocabulary_loss, "LOGITS_BYTES", 1)
        case "a piece a row":
            monkeypatch.setattr(vocabulary_loss, "_PIECE", 1)
        case "entries":
            monkeypatch.setattr(vocabulary_loss, "_BLOCK", 8)
            monkeypatch.setattr(vocabulary_loss, "LOGITS_BYTES", 5 * VOCABULARY * 4)
    return str(request.param)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_values_and_gradients(bounds: str, dtype: torch.dtype, tolerance: float) -> None:
    found = solve(dtype)
    assert found[0].dtype == torch.float32
    assert {gradient.dtype for gradient in found[1:]} == {dtype}
    for ours, expected in zip(found, exact(dtype), strict=True):
        assert ours.shape == expected.shape
        assert relative_error(ours, expected) < tolerance


@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_flat_and_confident_predictions(bounds: str, scale: float) -> None:
    for ours, expected in zip(solve(torch.float32, scale), exact(torch.float32, scale), strict=True):
        assert relative_error(ours, expected) < 3e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_a_gradient_the_values_are_the_same(bounds: str, dtype: torch.dtype) -> None:
    hidden, head, labels, _ = problem(dtype)
    expected = token_log_probs(head, hidden, labels)
    with torch.no_grad():
        found = token_log_probs(head, hidden, labels)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected.detach(), atol=1e-6, rtol=1e-6)


def test_blocks_never_hold_more_logits_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    inner = log_probs._cross_entropy

    def watch(logits: Tensor, *targets: Tensor, **settings: Any) -> Tensor:
        sizes.append(len(logits))
        return inner(logits, *targets, **settings)

    monkeypatch.setattr(log_probs, "_cross_entropy", watch)
    monkeypatch.setattr(vocabulary_loss, "LOGITS_BYTES", 5 * VOCABULARY * 4)
    solve(torch.float32)
    assert sizes == ([5] * 7 + [2]) * 2  # forward and backward


def test_the_gradient_of_a_confident_token_keeps_its_digits() -> None:
    """1 - p is 1e-5 here: bfloat16 would round p to 1 and the gradient to 0, were the one-hot taken off after rounding."""
    weight = torch.tensor([[1.0], [0.0]], dtype=torch.bfloat16, requires_grad=True)
    hidden = torch.tensor([[11.5]], dtype=torch.bfloat16, requires_grad=True)
    token_log_probs(Matrix(weight), hidden, torch.tensor([0])).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.item() == pytest.approx(1 / (1 + torch.tensor(11.5).exp().item()), rel=1e-2)


def test_many_small_blocks_in_bfloat16_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,024 blocks of one row, all alike: summed in bfloat16 the gradient would stop growing at some 256 of them."""
    monkeypatch.setattr(vocabulary_loss, "LOGITS_BYTES", 1)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    hidden = torch.ones(1024, 1, dtype=torch.bfloat16)
    token_log_probs(Matrix(weight), hidden, torch.zeros(1024, dtype=torch.long)).sum().backward()
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [512, -512]


def test_frozen_hidden_states_or_a_frozen_matrix(bounds: str) -> None:
    """As when only the head, or only the body, is trained."""
    _, hidden_gradient, weight_gradient = exact(torch.float32)
    for frozen in ("hidden", "weight"):
        hidden, head, labels, above = problem(torch.float32)
        (hidden if frozen == "hidden" else head.weight).requires_grad_(False)
        (token_log_probs(head, hidden, labels) * above).sum().backward()
        trained, expected = (head.weight, weight_gradient) if frozen == "hidden" else (hidden, hidden_gradient)
        assert trained.grad is not None
        assert relative_error(trained.grad, expected) < 1e-6


def test_no_labels_at_all(bounds: str) -> None:
    """A micro-batch may hold no target."""
    hidden = torch.zeros(0, DIM, requires_grad=True)
    head = Matrix(torch.ones(VOCABULARY, DIM, requires_grad=True))
    found = token_log_probs(head, hidden, torch.zeros(0, dtype=torch.long))
    assert found.shape == (0,)
    found.sum().backward()
    assert head.weight.grad is not None
    assert (head.weight.grad == 0).all()
    with torch.no_grad():
        assert token_log_probs(head, hidden, torch.zeros(0, dtype=torch.long)).shape == (0,)


class Odd(Matrix):
    """With a bias, a cap on the logits, and a scale of what comes in."""

    def prepare(self, hidden: Tensor) -> Tensor:
        return hidden * 0.7


@pytest.mark.parametrize(("biased", "cap"), [(True, None), (False, 3.0), (True, 3.0)])
def test_bias_scale_and_cap(bounds: str, biased: bool, cap: float | None) -> None:
    """Against autograd through the plain formula, in float64."""
    hidden, matrix, labels, above = problem(torch.float64)
    bias = torch.linspace(-1, 1, VOCABULARY, dtype=torch.float64).requires_grad_() if biased else None
    inputs = [hidden, matrix.weight, *([bias] if bias is not None else [])]
    ours = token_log_probs(Odd(matrix.weight, bias, cap), hidden, labels)
    logits = torch.nn.functional.linear(hidden * 0.7, matrix.weight, bias)
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    theirs = logits.log_softmax(-1).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)
    for ours_grad, theirs_grad in zip(
        torch.autograd.grad((ours * above).sum(), inputs), torch.autograd.grad((theirs * above).sum(), inputs), strict=True
    ):
        torch.testing.assert_close(ours_grad, theirs_grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_smoothed_targets_are_those_of_pytorch(bounds: str, dtype: torch.dtype) -> None:
    """Values and gradients; from the numbers as rounded to `dtype`."""
    hidden, head, labels, above = problem(dtype)
    ours = token_log_probs(head, hidden, labels, 0.1)
    found = (ours.detach(), *torch.autograd.grad((ours * above).sum(), [hidden, head.weight]))
    exactly = [tensor.detach().double().requires_grad_() for tensor in (hidden, head.weight)]
    theirs = -F.cross_entropy(exactly[0] @ exactly[1].t(), labels, reduction="none", label_smoothing=0.1)
    expected = (theirs.detach(), *torch.autograd.grad((theirs * above).sum(), exactly))
    for one, other in zip(found, expected, strict=True):
        assert relative_error(one, other) < (1e-2 if dtype == torch.bfloat16 else 1e-6)
    with torch.no_grad():
        torch.testing.assert_close(token_log_probs(head, hidden, labels, 0.1), found[0], atol=1e-6, rtol=1e-6)


def test_smoothing_with_bias_scale_and_cap(bounds: str) -> None:
    """Against the formula, written out in float64: 1 - e for the label, e / V for all V entries, the label among them."""
    hidden, matrix, labels, above = problem(torch.float64)
    bias = torch.linspace(-1, 1, VOCABULARY, dtype=torch.float64).requires_grad_()
    inputs = [hidden, matrix.weight, bias]
    logits = 3.0 * torch.tanh((hidden * 0.7 @ matrix.weight.t() + bias) / 3.0)
    target = torch.full((ROWS, VOCABULARY), 0.2 / VOCABULARY, dtype=torch.float64)
    target[torch.arange(ROWS), labels] += 0.8
    theirs = (target * logits.log_softmax(-1)).sum(-1)
    ours = token_log_probs(Odd(matrix.weight, bias, 3.0), hidden, labels, 0.2)
    torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)
    expected = torch.autograd.grad((theirs * above).sum(), inputs)
    for one, other in zip(torch.autograd.grad((ours * above).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_scores_are_those_of_whole_logits(bounds: str) -> None:
    hidden, matrix, labels, _ = problem(torch.float32)
    logits = 3.0 * torch.tanh((hidden * 0.7 @ matrix.weight.t()) / 3.0)
    labels[::2] = logits.argmax(-1)[::2]
    found = token_scores(Odd(matrix.weight, None, 3.0), hidden, labels)
    torch.testing.assert_close(found.log_probs, logits.log_softmax(-1).gather(1, labels[:, None])[:, 0])
    torch.testing.assert_close(found.mean_log_probs, logits.log_softmax(-1).mean(-1))
    assert found.right.tolist() == (logits.argmax(-1) == labels).tolist()
    assert 19 <= int(found.right.sum()) < ROWS
    assert not found.log_probs.requires_grad


def test_a_frozen_matrix_gets_no_gradient_and_the_rest_gets_its_own(bounds: str) -> None:
    """Of an adapter: neither is it computed; a bias beside it may yet be trained."""
    hidden, head, labels, above = problem(torch.float32)
    expected = torch.autograd.grad((token_log_probs(head, hidden, labels) * above).sum(), hidden)[0]
    frozen = Matrix(head.weight.detach(), torch.zeros(VOCABULARY, requires_grad=True))
    (token_log_probs(frozen, hidden, labels) * above).sum().backward()
    assert frozen.weight.grad is None
    assert frozen.bias is not None
    assert frozen.bias.grad is not None
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad, expected, atol=0, rtol=0)
    shares = (hidden @ head.weight.t()).softmax(-1) - F.one_hot(labels, VOCABULARY)
    torch.testing.assert_close(frozen.bias.grad, (-above[:, None].float() * shares).sum(0), atol=1e-4, rtol=1e-4)


def test_the_temperature_divides_the_logits(bounds: str) -> None:
    hidden, head, labels, above = problem(torch.float32)
    found = token_log_probs(head, hidden, labels, temperature=0.7)
    cooler, expected_head, *_ = problem(torch.float32)
    expected = (cooler @ expected_head.weight.t() / 0.7).log_softmax(-1).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    pairs = ((found, [hidden, head.weight]), (expected, [cooler, expected_head.weight]))
    for ours, theirs in zip(*(torch.autograd.grad((values * above).sum(), inputs) for values, inputs in pairs), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


def test_entries_in_blocks_hold_the_logits_of_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all of them are too many to be kept."""
    shapes: list[torch.Size] = []
    inner = vocabulary_loss.make_logits

    def watch(*words: Any) -> Tensor:
        shapes.append((logits := inner(*words)).shape)
        return logits

    monkeypatch.setattr(vocabulary_loss, "make_logits", watch)
    monkeypatch.setattr(vocabulary_loss, "_BLOCK", 50)
    solve(torch.float32)
    assert shapes == [(ROWS, 101)]
    shapes.clear()
    monkeypatch.setattr(vocabulary_loss, "LOGITS_BYTES", 1)
    solve(torch.float32)
    assert shapes == [(ROWS, 50), (ROWS, 50), (ROWS, 1)] * 2  # forward and backward
