"""Losses over a vocabulary against plain formulas in float64: values and gradients, with kept logits or not, in blocks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_runs import After
from torch import Tensor

from tfkit.objectives import distillation, vocabulary_loss
from tfkit.objectives.distillation import token_divergences
from tfkit.objectives.log_probs import token_log_probs, token_scores

ROWS, DIM, TEACHER_DIM, VOCABULARY = 37, 16, 24, 101


@dataclass
class Matrix:
    """A matrix (V, D), and everything that a head may add: a bias, a cap on the logits, a scale of the hidden states."""

    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0

    def prepare(self, hidden: Tensor) -> Tensor:
        return hidden * self.scale

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits by the formula: (N, V)."""
        found = F.linear(self.prepare(hidden), self.weight, self.bias)
        return found if self.softcap is None else self.softcap * torch.tanh(found / self.softcap)

    def to(self, dtype: torch.dtype) -> "Matrix":
        """Return the same numbers in another dtype, as new leaf tensors."""
        return Matrix(leaf(self.weight, dtype), None if self.bias is None else leaf(self.bias, dtype), self.softcap, self.scale)


def leaf(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype).requires_grad_()


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found.double() - expected).norm() / expected.norm())


def problem(dtype: torch.dtype, size: float = 1.0, **head: Any) -> tuple[Tensor, Matrix, Tensor, Tensor]:
    """Return hidden states (N, D) of this size, a head, labels (N,) and the upstream gradient (N,); some labels occur twice."""
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(ROWS, DIM, generator=generator, dtype=torch.float64) * size
    weight = torch.randn(VOCABULARY, DIM, generator=generator, dtype=torch.float64)
    labels = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    labels[5:8] = labels[4]
    above = torch.randn(ROWS, generator=generator, dtype=torch.float64)
    return leaf(hidden, dtype), Matrix(weight, **head).to(dtype), labels, above


def gradients(values: Tensor, above: Tensor, hidden: Tensor, head: Matrix) -> tuple[Tensor, ...]:
    """Return the values (N,), and the gradients of the hidden states, of the matrix, and of the bias if there is one."""
    inputs = [hidden, head.weight, *([] if head.bias is None else [head.bias])]
    return (values.detach(), *torch.autograd.grad((values * above).sum(), inputs))


def solve(dtype: torch.dtype) -> tuple[Tensor, ...]:
    hidden, head, labels, above = problem(dtype)
    return gradients(token_log_probs(head, hidden, labels), above, hidden, head)


FIVE_ROWS = (vocabulary_loss, "LOGITS_BYTES", 5 * VOCABULARY * 4)
SMALL_BLOCKS = (vocabulary_loss, "_BLOCK", 8)
BOUNDS: dict[str, list[tuple[Any, str, int]]] = {
    "kept": [],
    "kept, gradient in blocks": [SMALL_BLOCKS],
    "blocks of 5": [FIVE_ROWS],
    "blocks of 1": [(vocabulary_loss, "LOGITS_BYTES", 1)],
    "a piece a row": [(vocabulary_loss, "_PIECE", 1), (distillation, "_PIECE", 1)],
    "entries": [SMALL_BLOCKS, FIVE_ROWS],
}


@pytest.fixture(params=BOUNDS)
def bounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the bound on the logits in memory. It is in bytes, so blocks of float64, or of two models, have half as many rows."""
    for bound in BOUNDS[request.param]:
        monkeypatch.setattr(*bound)


@pytest.fixture
def shapes() -> Iterator[list[torch.Size]]:
    """Return the shapes of all logits that are made."""
    found: list[torch.Size] = []

    def note(logits: Tensor, *_: object) -> Tensor:
        found.append(logits.shape)
        return logits

    with After(distillation, "make_logits", note), After(vocabulary_loss, "make_logits", note):
        yield found


BIAS = torch.linspace(-1, 1, VOCABULARY, dtype=torch.float64)
WHOLE = {"bias": BIAS, "softcap": 3.0, "scale": 0.7}
DOUBLE, SINGLE, HALF = torch.float64, torch.float32, torch.bfloat16
CASES: dict[str, tuple[torch.dtype, dict[str, Any], dict[str, float], float]] = {  # the type, the problem, the settings, the tolerance
    "float64": (DOUBLE, {}, {}, 1e-6),
    "float32": (SINGLE, {}, {}, 1e-6),
    "bfloat16": (HALF, {}, {}, 1e-2),
    "flat predictions": (SINGLE, {"size": 1e-3}, {}, 3e-6),
    "confident predictions": (SINGLE, {"size": 30.0}, {}, 3e-6),
    "a bias": (DOUBLE, {"bias": BIAS, "scale": 0.7}, {}, 1e-6),
    "a cap": (DOUBLE, {"softcap": 3.0, "scale": 0.7}, {}, 1e-6),
    "a bias and a cap": (DOUBLE, WHOLE, {}, 1e-6),
    "smoothed in float64": (DOUBLE, {}, {"smoothing": 0.1}, 1e-6),
    "smoothed in float32": (SINGLE, {}, {"smoothing": 0.1}, 1e-6),
    "smoothed in bfloat16": (HALF, {}, {"smoothing": 0.1}, 1e-2),
    "smoothed, with a bias and a cap": (DOUBLE, WHOLE, {"smoothing": 0.2}, 1e-6),
    "a temperature": (SINGLE, {}, {"temperature": 0.7}, 1e-6),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_pytorch_in_float64(bounds: None, case: str) -> None:
    """PyTorch gets the numbers as rounded to the dtype; without a gradient the values are the same."""
    dtype, given, settings, tolerance = CASES[case]
    hidden, head, labels, above = problem(dtype, **given)
    values = token_log_probs(head, hidden, labels, **settings)
    found = gradients(values, above, hidden, head)
    assert values.dtype == torch.float32
    assert {gradient.dtype for gradient in found[1:]} == {dtype}
    rounded, matrix = leaf(hidden, DOUBLE), head.to(DOUBLE)
    logits = matrix.logits(rounded) / settings.get("temperature", 1.0)
    exact = -F.cross_entropy(logits, labels, reduction="none", label_smoothing=settings.get("smoothing", 0.0))
    expected = gradients(exact, above, rounded, matrix)
    assert all(relative_error(*pair) < tolerance for pair in zip(found, expected, strict=True))
    with torch.no_grad():
        again = token_log_probs(head, hidden, labels, **settings)
    assert not again.requires_grad
    torch.testing.assert_close(again, found[0], atol=1e-6, rtol=1e-6)


def test_the_gradient_of_a_confident_token_keeps_its_digits() -> None:
    """1 - p is 1e-5 here: if the one-hot target were subtracted after rounding to bfloat16, p would be 1, and the gradient 0."""
    weight = torch.tensor([[1.0], [0.0]], dtype=torch.bfloat16, requires_grad=True)
    hidden = torch.tensor([[11.5]], dtype=torch.bfloat16, requires_grad=True)
    token_log_probs(Matrix(weight), hidden, torch.tensor([0])).sum().backward()
    assert hidden.grad.item() == pytest.approx(1 / (1 + torch.tensor(11.5).exp().item()), rel=1e-2)


def test_many_small_blocks_in_bfloat16_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are 1,024 equal blocks of one row: if they were summed in bfloat16, the gradient would stop growing after about 256 of them."""
    monkeypatch.setattr(vocabulary_loss, "LOGITS_BYTES", 1)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    hidden = torch.ones(1024, 1, dtype=torch.bfloat16)
    token_log_probs(Matrix(weight), hidden, torch.zeros(1024, dtype=torch.long)).sum().backward()
    assert weight.grad.flatten().tolist() == [512, -512]


def test_the_head_alone_is_trained_where_hidden_states_are_frozen(bounds: None) -> None:
    expected = solve(torch.float32)[2]
    hidden, head, labels, above = problem(torch.float32)
    (token_log_probs(head, hidden.detach(), labels) * above).sum().backward()
    assert relative_error(head.weight.grad, expected.double()) < 1e-6


def test_no_labels_at_all(bounds: None) -> None:
    """A micro-batch may have no target."""
    hidden, head = torch.zeros(0, DIM, requires_grad=True), Matrix(torch.ones(VOCABULARY, DIM, requires_grad=True))
    found = token_log_probs(head, hidden, torch.zeros(0, dtype=torch.long))
    found.sum().backward()
    assert (head.weight.grad == 0).all()
    with torch.no_grad():
        assert token_log_probs(head, hidden, torch.zeros(0, dtype=torch.long)).shape == found.shape == (0,)


def test_scores_are_those_of_whole_logits(bounds: None) -> None:
    hidden, head, labels, _ = problem(torch.float32, softcap=3.0, scale=0.7)
    logits = head.logits(hidden)
    labels[::2] = logits.argmax(-1)[::2]
    found, wanted = token_scores(head, hidden, labels), logits.log_softmax(-1)
    torch.testing.assert_close(found.log_probs, wanted.gather(1, labels[:, None])[:, 0])
    torch.testing.assert_close(found.mean_log_probs, wanted.mean(-1))
    assert found.right.tolist() == (logits.argmax(-1) == labels).tolist()
    assert 19 <= int(found.right.sum()) < ROWS
    assert not found.log_probs.requires_grad


def test_a_frozen_matrix_gets_no_gradient_and_the_rest_gets_its_own(bounds: None) -> None:
    """As with an adapter: the gradient of the matrix is not computed, but its bias may be trained."""
    hidden, head, labels, above = problem(torch.float32)
    expected = torch.autograd.grad((token_log_probs(head, hidden, labels) * above).sum(), hidden)[0]
    frozen = Matrix(head.weight.detach(), torch.zeros(VOCABULARY, requires_grad=True))
    (token_log_probs(frozen, hidden, labels) * above).sum().backward()
    assert frozen.weight.grad is None
    torch.testing.assert_close(hidden.grad, expected, atol=0, rtol=0)
    shares = (hidden @ head.weight.t()).softmax(-1) - F.one_hot(labels, VOCABULARY)
    torch.testing.assert_close(frozen.bias.grad, (-above[:, None].float() * shares).sum(0), atol=1e-4, rtol=1e-4)


def test_blocks_never_hold_more_logits_than_the_bound(monkeypatch: pytest.MonkeyPatch, shapes: list[torch.Size]) -> None:
    for block, bound, wanted in (
        (2048, 5 * VOCABULARY * 4, [*[(5, 101)] * 7, (2, 101)] * 2),  # blocks of rows, forward and backward
        (50, vocabulary_loss.LOGITS_BYTES, [(ROWS, 101)]),  # kept
        (50, 1, [(ROWS, 50), (ROWS, 50), (ROWS, 1)] * 2),  # blocks of entries, if the logits are too many to be kept
    ):
        monkeypatch.setattr(vocabulary_loss, "_BLOCK", block)
        monkeypatch.setattr(vocabulary_loss, "LOGITS_BYTES", bound)
        solve(torch.float32)
        assert shapes == wanted
        shapes.clear()


# ------------------------------------------------------------------------------- divergences from a teacher's distribution


def divergence(dtype: torch.dtype, rows: int = ROWS, *, plain: bool = False, vocabulary: int = VOCABULARY) -> tuple[Any, ...]:
    """Return the head of a student, its hidden states, and those of its teacher, as leaf tensors; plain: without bias, cap and scale."""
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    head = Matrix(normal(vocabulary, DIM), None if plain else normal(vocabulary), None if plain else 3.0, 1.0 if plain else 0.7)
    teacher = Matrix(normal(vocabulary, TEACHER_DIM) / 2, normal(vocabulary), None if plain else 2.0, 1.0 if plain else 0.5)
    return to((head, normal(rows, DIM), teacher, normal(rows, TEACHER_DIM)), dtype)


def to(given: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    """Return the same numbers in another dtype, as new leaf tensors."""
    return tuple(one.to(dtype) if isinstance(one, Matrix) else leaf(one, dtype) for one in given)


def by_formula(head: Matrix, hidden: Tensor, teacher: Matrix, teacher_hidden: Tensor, temperature: float) -> Tensor:
    target = (teacher.logits(teacher_hidden).detach() / temperature).softmax(-1)
    log_probs = (head.logits(hidden) / temperature).log_softmax(-1)
    return (target * (target.log() - log_probs)).sum(-1)


def solve_divergence(given: tuple[Any, ...], temperature: float, values: Callable[..., Tensor] = token_divergences) -> tuple[Tensor, ...]:
    """Return the values, and the gradients of hidden states, matrix and bias, for random gradients of the values."""
    head, hidden, *_ = given
    above = torch.randn(len(hidden), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return gradients(values(*given, temperature), above, hidden, head)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "bias, scale and cap"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 1.5e-2)])
def test_divergences_and_gradients(bounds: None, dtype: torch.dtype, tolerance: float, plain: bool, temperature: float) -> None:
    """The formula gets the numbers as rounded to the dtype, in float64."""
    given = divergence(dtype, plain=plain)
    found, expected = solve_divergence(given, temperature), solve_divergence(to(given, torch.float64), temperature, by_formula)
    assert found[0].dtype == torch.promote_types(dtype, torch.float32)
    assert {gradient.dtype for gradient in found[1:]} == {dtype}
    assert all(relative_error(*pair) < tolerance for pair in zip(found, expected, strict=True))
    with torch.no_grad():
        torch.testing.assert_close(token_divergences(*given, temperature), found[0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("bound", [vocabulary_loss.LOGITS_BYTES, 2 * 2 * 11 * 8], ids=["kept", "blocks of 2"])
def test_the_gradient_of_divergences_by_gradcheck(monkeypatch: pytest.MonkeyPatch, bound: int) -> None:
    """The gradient equals the numerical derivative of the values, entry by entry."""
    monkeypatch.setattr(vocabulary_loss, "LOGITS_BYTES", bound)
    head, hidden, *teacher = divergence(torch.float64, rows=5, vocabulary=11)

    def divergences(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return token_divergences(Matrix(weight, bias, 3.0, 0.7), hidden, *teacher, 2.0)

    assert torch.autograd.gradcheck(divergences, (hidden, head.weight, head.bias))


def test_the_teacher_gets_no_gradient_and_a_student_like_it_is_at_no_distance() -> None:
    head, hidden, teacher, teacher_hidden = divergence(torch.float32)
    token_divergences(head, hidden, teacher, teacher_hidden).sum().backward()
    assert hidden.grad is not None
    assert [teacher_hidden.grad, teacher.weight.grad, teacher.bias.grad] == [None] * 3
    found = token_divergences(teacher, teacher_hidden, teacher, teacher_hidden, 2.0)
    assert found.abs().max() == 0
    assert torch.autograd.grad(found.sum(), teacher.weight)[0].abs().max() == 0


def test_the_logits_of_both_never_exceed_the_bound(monkeypatch: pytest.MonkeyPatch, shapes: list[torch.Size]) -> None:
    monkeypatch.setattr(vocabulary_loss, "LOGITS_BYTES", 11 * VOCABULARY * 4)  # room for five rows of both, not six
    solve_divergence(divergence(torch.float32), 2.0)
    assert shapes == [(size, VOCABULARY) for size in ([5] * 14 + [2] * 2) * 2]


def test_no_rows_at_all() -> None:
    values, *gradients = solve_divergence(divergence(torch.float32, rows=0), 1.0)
    assert values.shape == (0,)
    assert all((gradient == 0).all() for gradient in gradients)
