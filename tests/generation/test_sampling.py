import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation import logits_process

from tfkit.generation import next_token
from tfkit.recipe.schema.output_sections import GenerationSection


def random_logits(rows: int = 7, vocabulary: int = 53) -> torch.Tensor:
    return 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(4))


FILTERS = {
    "top k": (next_token.keep_top_k, logits_process.TopKLogitsWarper, [1, 5, 53, 99]),
    "top p": (next_token.keep_top_p, logits_process.TopPLogitsWarper, [1e-6, 0.1, 0.5, 0.9, 0.999]),
    "min p": (next_token.keep_min_p, logits_process.MinPLogitsWarper, [1e-6, 0.05, 0.3, 1.0]),
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_is_transformers(name):
    ours, theirs, values = FILTERS[name]
    logits = random_logits()
    logits[:, 3] = logits[:, 8]  # a tie
    for value in values:
        torch.testing.assert_close(ours(logits, value), theirs(value)(None, logits), rtol=0, atol=0)


def random_texts(rows: int = 7, length: int = 30) -> torch.Tensor:
    return torch.randint(6, (rows, length), generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("penalty", [0.5, 1.2, 3.0])
def test_the_penalty_for_repetition_is_transformers(penalty):
    logits, texts = random_logits(), random_texts()
    expected = logits_process.RepetitionPenaltyLogitsProcessor(penalty)(texts, logits.clone())
    torch.testing.assert_close(next_token.penalize_repetition(logits, texts.tolist(), penalty), expected, rtol=0, atol=0)
    assert torch.equal(logits, random_logits())  # what was handed in stays


@pytest.mark.parametrize("length", [1, 2, 3, 30])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_repeated_ngrams_are_transformers(n, length):
    logits, texts = random_logits(), random_texts(length=length)
    expected = logits_process.NoRepeatNGramLogitsProcessor(n)(texts, logits.clone())
    torch.testing.assert_close(next_token.exclude_repeated_ngrams(logits, texts.tolist(), n), expected, rtol=0, atol=0)
    assert expected.isinf().any() or length < 30


def test_the_order_is_transformers():
    logits, texts = random_logits(), random_texts()
    before = [logits_process.RepetitionPenaltyLogitsProcessor(1.4), logits_process.NoRepeatNGramLogitsProcessor(2)]
    before += [logits_process.TemperatureLogitsWarper(0.6), logits_process.TopKLogitsWarper(9), logits_process.TopPLogitsWarper(0.9)]
    expected = logits_process.LogitsProcessorList([*before, logits_process.MinPLogitsWarper(0.05)])
    settings = GenerationSection(temperature=0.6, top_k=9, top_p=0.9, min_p=0.05, repetition_penalty=1.4, no_repeat_ngram=2)

    def kept(processors):
        return logits_process.LogitsProcessorList(processors)(texts, logits.clone()).isinf()

    ours = next_token.probabilities(next_token.without_repetition(logits, texts.tolist(), settings), settings)
    torch.testing.assert_close(ours, expected(texts, logits.clone()).softmax(-1), rtol=1e-6, atol=0)
    for i in (3, 4, 5):  # the numbers bite: each of the last ones excludes some, and would exclude others before the temperature
        assert not torch.equal(kept(expected), kept(expected[:i] + expected[i + 1 :]))
    assert not torch.equal(kept(expected), kept(expected[:2] + expected[3:] + expected[2:3]))


LIMITS = [{"temperature": temperature} for temperature in (1e-7, 1e-12, 1e-38, 1e-45, 5e-324)]
LIMITS += [{"temperature": 1e-38, "top_k": 3, "top_p": 0.5, "min_p": 0.1}, {"top_p": 1e-30}, {"top_k": 1}, {"min_p": 1.0}]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e30])
@pytest.mark.parametrize("changes", LIMITS, ids=str)
def test_in_the_limit_of_every_setting_the_likeliest_token_is_drawn(changes, scale, dtype):
    """Also where others are excluded, and where logits are large."""
    logits = (scale * torch.arange(53.0)[torch.randperm(53, generator=torch.Generator().manual_seed(1))][None].repeat(3, 1)).to(dtype)
    logits[1, ::3] = float("-inf")
    logits[2, logits[2].argsort()[1:]] = float("-inf")
    found = next_token.probabilities(logits, GenerationSection(**changes))
    assert torch.isfinite(found).all()
    for uniform in (0.0, 0.5, 1 - 2**-53):
        assert next_token.draw(found, torch.full((3,), uniform, dtype=torch.float64)).tolist() == logits.argmax(dim=-1).tolist()


@pytest.mark.parametrize("penalty", [0.01, 100.0])
def test_the_hardest_penalties_leave_numbers(penalty):
    scores = next_token.penalize_repetition(1e4 * random_logits(), random_texts().tolist(), penalty)
    assert torch.isfinite(next_token.probabilities(scores, GenerationSection(temperature=1e-38))).all()


def test_draws_follow_the_probabilities():
    distribution = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    uniforms = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    counts = next_token.draw(distribution.expand(100_000, -1), uniforms).bincount(minlength=6) / 100_000
    torch.testing.assert_close(counts, distribution, atol=2e-5, rtol=0)
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert next_token.draw(torch.tensor([[0.0, 0.7, 0.3, 0.0]]).expand(2, -1), ends).tolist() == [1, 2]


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 4), st.integers(0, 2**32))
def test_a_draw_never_is_an_excluded_token(uniform, kept, seed):
    distribution = torch.rand(1, 5, generator=torch.Generator().manual_seed(seed))
    distribution[0, torch.arange(5) != kept] = 0
    assert next_token.draw(distribution / distribution.sum(), torch.tensor([uniform], dtype=torch.float64)).tolist() == [kept]
