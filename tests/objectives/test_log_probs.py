"""token_log_probs against torch's cross-entropy: values and gradients, with kept logits or not, in blocks of rows or entries."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_heads import Matrix, leaf, relative_error
from torch import Tensor

from tfkit.objectives import log_probs, vocabulary_loss
from tfkit.objectives.log_probs import token_log_probs, token_scores

ROWS, DIM, VOCABULARY = 37, 16, 101


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


@pytest.fixture(params=["kept", "kept, gradient in blocks", "blocks of 5", "blocks of 1", "a piece a row", "entries"])
def bounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Set the bound on the logits in memory. It is in bytes, so blocks of float64 have half as many rows."""
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
def test_values_and_gradients_are_those_of_pytorch_in_float64(bounds: str, case: str) -> None:
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
    for ours, expected in zip(found, gradients(exact, above, rounded, matrix), strict=True):
        assert ours.shape == expected.shape
        assert relative_error(ours, expected) < tolerance
    with torch.no_grad():
        again = token_log_probs(head, hidden, labels, **settings)
    assert not again.requires_grad
    torch.testing.assert_close(again, found[0], atol=1e-6, rtol=1e-6)


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


def test_the_head_alone_is_trained_where_hidden_states_are_frozen(bounds: str) -> None:
    expected = solve(torch.float32)[2]
    hidden, head, labels, above = problem(torch.float32)
    (token_log_probs(head, hidden.detach(), labels) * above).sum().backward()
    assert relative_error(head.weight.grad, expected.double()) < 1e-6


def test_no_labels_at_all(bounds: str) -> None:
    """A micro-batch may have no target."""
    hidden = torch.zeros(0, DIM, requires_grad=True)
    head = Matrix(torch.ones(VOCABULARY, DIM, requires_grad=True))
    found = token_log_probs(head, hidden, torch.zeros(0, dtype=torch.long))
    assert found.shape == (0,)
    found.sum().backward()
    assert (head.weight.grad == 0).all()
    with torch.no_grad():
        assert token_log_probs(head, hidden, torch.zeros(0, dtype=torch.long)).shape == (0,)


def test_scores_are_those_of_whole_logits(bounds: str) -> None:
    hidden, head, labels, _ = problem(torch.float32, softcap=3.0, scale=0.7)
    logits = head.logits(hidden)
    labels[::2] = logits.argmax(-1)[::2]
    found = token_scores(head, hidden, labels)
    torch.testing.assert_close(found.log_probs, logits.log_softmax(-1).gather(1, labels[:, None])[:, 0])
    torch.testing.assert_close(found.mean_log_probs, logits.log_softmax(-1).mean(-1))
    assert found.right.tolist() == (logits.argmax(-1) == labels).tolist()
    assert 19 <= int(found.right.sum()) < ROWS
    assert not found.log_probs.requires_grad


def test_a_frozen_matrix_gets_no_gradient_and_the_rest_gets_its_own(bounds: str) -> None:
    """As with an adapter: the gradient of the matrix is not computed, but its bias may be trained."""
    hidden, head, labels, above = problem(torch.float32)
    expected = torch.autograd.grad((token_log_probs(head, hidden, labels) * above).sum(), hidden)[0]
    frozen = Matrix(head.weight.detach(), torch.zeros(VOCABULARY, requires_grad=True))
    (token_log_probs(frozen, hidden, labels) * above).sum().backward()
    assert frozen.weight.grad is None
    torch.testing.assert_close(hidden.grad, expected, atol=0, rtol=0)
    shares = (hidden @ head.weight.t()).softmax(-1) - F.one_hot(labels, VOCABULARY)
    torch.testing.assert_close(frozen.bias.grad, (-above[:, None].float() * shares).sum(0), atol=1e-4, rtol=1e-4)


def test_entries_in_blocks_hold_the_logits_of_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of entries are used if the logits are too many to be kept."""
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
