"""token_divergences against the plain formula in float64: values and gradients, whether the logits are kept or recomputed."""

from dataclasses import dataclass

import pytest
import torch
from tiny_heads import Matrix, leaf, relative_error
from torch import Tensor

from tfkit.objectives import distillation, vocabulary_loss
from tfkit.objectives.distillation import token_divergences

ROWS, DIM, TEACHER_DIM, VOCABULARY = 37, 16, 24, 101


@dataclass
class Problem:
    """The hidden states and heads of a student and its teacher, and the upstream gradient (N,)."""

    hidden: Tensor
    head: Matrix
    teacher_hidden: Tensor
    teacher: Matrix
    above: Tensor

    @property
    def inputs(self) -> list[Tensor]:
        bias = [] if self.head.bias is None else [self.head.bias]
        return [self.hidden, self.head.weight, *bias]

    def to(self, dtype: torch.dtype) -> "Problem":
        """Return the same numbers in another dtype, as new leaf tensors."""
        hidden, teacher_hidden = (leaf(tensor, dtype) for tensor in (self.hidden, self.teacher_hidden))
        return Problem(hidden, self.head.to(dtype), teacher_hidden, self.teacher.to(dtype), self.above)


def problem(dtype: torch.dtype, rows: int = ROWS, *, plain: bool = False, vocabulary: int = VOCABULARY) -> Problem:
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    head = Matrix(normal(vocabulary, DIM), None if plain else normal(vocabulary), None if plain else 3.0, 1.0 if plain else 0.7)
    teacher = Matrix(normal(vocabulary, TEACHER_DIM) / 2, normal(vocabulary), None if plain else 2.0, 1.0 if plain else 0.5)
    return Problem(normal(rows, DIM), head, normal(rows, TEACHER_DIM), teacher, normal(rows)).to(dtype)


def solve(given: Problem, temperature: float) -> tuple[Tensor, ...]:
    """Return the results of token_divergences: the values, and the gradients of hidden states, matrix and bias."""
    found = token_divergences(given.head, given.hidden, given.teacher, given.teacher_hidden, temperature)
    return (found.detach(), *torch.autograd.grad((found * given.above).sum(), given.inputs))


def exact(given: Problem, temperature: float) -> tuple[Tensor, ...]:
    """Return the same results by the formula in float64, from the numbers as rounded to their dtype."""
    given = given.to(torch.float64)
    target = (given.teacher.logits(given.teacher_hidden).detach() / temperature).softmax(-1)
    log_probs = (given.head.logits(given.hidden) / temperature).log_softmax(-1)
    found = (target * (target.log() - log_probs)).sum(-1)
    return (found.detach(), *torch.autograd.grad((found * given.above).sum(), given.inputs))


@pytest.fixture(params=["kept", "blocks of 5", "blocks of 1", "a piece a row"])
def bounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Set the bound on the logits in memory. It is in bytes, so blocks of float64 have half as many rows."""
    match request.param:
        case "blocks of 5":
            monkeypatch.setattr(vocabulary_loss, "LOGITS_BYTES", 5 * 2 * VOCABULARY * 4)
        case "blocks of 1":
            monkeypatch.setattr(vocabulary_loss, "LOGITS_BYTES", 1)
        case "a piece a row":
            monkeypatch.setattr(distillation, "_PIECE", 1)
    return str(request.param)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "bias, scale and cap"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 1.5e-2)])
def test_values_and_gradients(bounds: str, dtype: torch.dtype, tolerance: float, plain: bool, temperature: float) -> None:
    given = problem(dtype, plain=plain)
    found = solve(given, temperature)
    assert found[0].dtype == torch.promote_types(dtype, torch.float32)
    assert {gradient.dtype for gradient in found[1:]} == {dtype}
    for ours, expected in zip(found, exact(given, temperature), strict=True):
        assert ours.shape == expected.shape
        assert relative_error(ours, expected) < tolerance
    with torch.no_grad():
        judged = token_divergences(given.head, given.hidden, given.teacher, given.teacher_hidden, temperature)
    torch.testing.assert_close(judged, found[0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("bound", [vocabulary_loss.LOGITS_BYTES, 2 * 2 * 11 * 8], ids=["kept", "blocks of 2"])
def test_gradcheck(monkeypatch: pytest.MonkeyPatch, bound: int) -> None:
    """The gradient equals the numerical derivative of the values, entry by entry."""
    monkeypatch.setattr(vocabulary_loss, "LOGITS_BYTES", bound)
    given = problem(torch.float64, rows=5, vocabulary=11)

    def divergences(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return token_divergences(Matrix(weight, bias, 3.0, 0.7), hidden, given.teacher, given.teacher_hidden, 2.0)

    assert torch.autograd.gradcheck(divergences, given.inputs)


def test_the_teacher_gets_no_gradient() -> None:
    given = problem(torch.float32)
    token_divergences(given.head, given.hidden, given.teacher, given.teacher_hidden).sum().backward()
    assert given.hidden.grad is not None
    assert [given.teacher_hidden.grad, given.teacher.weight.grad, given.teacher.bias.grad] == [None] * 3


def test_a_student_like_its_teacher_is_at_no_distance() -> None:
    given = problem(torch.float32)
    found = token_divergences(given.teacher, given.teacher_hidden, given.teacher, given.teacher_hidden, 2.0)
    assert found.abs().max() == 0
    assert torch.autograd.grad(found.sum(), given.teacher.weight)[0].abs().max() == 0


def test_the_logits_of_both_never_exceed_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    inner = distillation.make_logits

    def watch(*arguments: Tensor) -> Tensor:
        logits = inner(*arguments)
        sizes.append(logits.nbytes)
        return logits

    monkeypatch.setattr(distillation, "make_logits", watch)
    monkeypatch.setattr(vocabulary_loss, "make_logits", watch)
    monkeypatch.setattr(vocabulary_loss, "LOGITS_BYTES", 11 * VOCABULARY * 4)  # room for five rows of both, not six
    solve(problem(torch.float32), 2.0)
    assert sizes == [size * VOCABULARY * 4 for size in ([5] * 14 + [2] * 2) * 2]


def test_many_small_blocks_in_bfloat16_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are 1,024 equal blocks of one row: if they were summed in bfloat16, the gradient would stop growing after about 256 of them."""
    monkeypatch.setattr(vocabulary_loss, "LOGITS_BYTES", 1)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    teacher = Matrix(torch.tensor([[30.0], [-30.0]], dtype=torch.bfloat16))
    ones = torch.ones(1024, 1, dtype=torch.bfloat16)
    token_divergences(Matrix(weight), ones, teacher, ones).sum().backward()
    assert weight.grad.flatten().tolist() == [-512, 512]


def test_no_rows_at_all() -> None:
    """A micro-batch may have no target."""
    given = problem(torch.float32, rows=0)
    values, *gradients = solve(given, 1.0)
    assert values.shape == (0,)
    assert all((gradient == 0).all() for gradient in gradients)
