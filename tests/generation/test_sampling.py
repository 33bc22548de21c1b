import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from tfkit.generation.sampling import draw, keep_top_k, keep_top_p, probabilities
from tfkit.recipe.schema import GenerationSection


def random_logits(rows: int = 7, vocabulary: int = 53) -> torch.Tensor:
    return 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("k", [1, 5, 53, 99])
def test_top_k_is_transformers(k):
    logits = random_logits()
    logits[:, 3] = logits[:, 8]  # a tie
    torch.testing.assert_close(keep_top_k(logits, k), TopKLogitsWarper(k)(None, logits), rtol=0, atol=0)


@pytest.mark.parametrize("p", [1e-6, 0.1, 0.5, 0.9, 0.999])
def test_top_p_is_transformers(p):
    logits = random_logits()
    torch.testing.assert_close(keep_top_p(logits, p), TopPLogitsWarper(p)(None, logits), rtol=0, atol=0)


def test_temperature_then_top_k_then_top_p():
    logits = random_logits()
    expected = TopPLogitsWarper(0.7)(None, TopKLogitsWarper(9)(None, TemperatureLogitsWarper(0.6)(None, logits)))
    settings = GenerationSection(temperature=0.6, top_k=9, top_p=0.7)
    torch.testing.assert_close(probabilities(logits, settings), expected.softmax(-1), rtol=1e-6, atol=0)
    other_order = TemperatureLogitsWarper(0.6)(None, TopKLogitsWarper(9)(None, TopPLogitsWarper(0.7)(None, logits)))
    assert not torch.equal(expected.isinf(), other_order.isinf())  # the numbers bite


def test_draws_follow_the_probabilities():
    distribution = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    uniforms = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    counts = draw(distribution.expand(100_000, -1), uniforms).bincount(minlength=6) / 100_000
    torch.testing.assert_close(counts, distribution, atol=2e-5, rtol=0)


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 4), st.integers(0, 2**32))
def test_a_draw_never_is_an_excluded_token(uniform, kept, seed):
    distribution = torch.rand(1, 5, generator=torch.Generator().manual_seed(seed))
    distribution[0, torch.arange(5) != kept] = 0
    assert draw(distribution / distribution.sum(), torch.tensor([uniform], dtype=torch.float64)).tolist() == [kept]


def test_the_ends_of_the_unit_interval():
    distribution = torch.tensor([[0.0, 0.7, 0.3, 0.0]]).expand(2, -1)
    assert draw(distribution, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)).tolist() == [1, 2]
