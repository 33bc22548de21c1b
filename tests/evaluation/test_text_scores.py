import copy
import math

import numpy as np
import pytest
import torch
from tiny_files import write_rows
from tiny_writers import tiny_model

from tfkit.data import open_source, token_stream
from tfkit.data.store.token_stream import TokenStream
from tfkit.errors import DataError, ModelError, Stopped
from tfkit.evaluation import text_scores
from tfkit.evaluation.text_scores import count_targets, score_texts
from tfkit.model.transformer import Transformer
from tfkit.parallel.rank_map import BatchWork
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.objective_sections import CausalLMSection
from tfkit.tokenizer import Tokenizer, train_byte_bpe

CONTEXT = 12
TEXTS = ["the cat sat on the mat and saw the hat " * 3, "a", "Mädchen", "the mat", "世界 🙂 " * 9, "cat hat sat", "on the mat the cat"] * 3


def tokenizer_of(add_bos: bool) -> Tokenizer:
    return train_byte_bpe(TEXTS, 290, add_bos=add_bos)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tokenizer_of(add_bos=True)


def stream_of(folder, tokenizer, texts=TEXTS) -> TokenStream:
    """A stream of the texts; an empty row is no text."""
    path = write_rows(folder / "texts.jsonl", [{"text": text} for text in [*texts, ""]])
    return token_stream(open_source(SourceSection(path=str(path)), "all", None), tokenizer, None)


@pytest.fixture(scope="module")
def stream(tmp_path_factory, tokenizer) -> TokenStream:
    return stream_of(tmp_path_factory.mktemp("texts"), tokenizer)


@pytest.fixture
def model(tokenizer) -> Transformer:
    return tiny_model("gpt2", CONTEXT, vocab_size=tokenizer.size)


@torch.no_grad()
def plain_losses(model, texts, tokenizer):
    """The loss of each text by a loop over windows, in float64, as docs/cli.md describes it."""
    model, losses = copy.deepcopy(model).double(), []
    for ids in tokenizer.encode_texts(texts):
        total = 0.0
        for start in range(0, len(ids) - 1, CONTEXT - 1):
            window = torch.tensor([ids[start : start + CONTEXT]])
            log_probs = model(window).logits[0, :-1].log_softmax(-1)
            total -= log_probs.gather(1, window[0, 1:, None]).sum().item()
        losses.append(total)
    return losses


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_scores_are_those_of_a_plain_loop_whatever_the_batch(stream, tokenizer, family):
    model = tiny_model(family, CONTEXT, vocab_size=tokenizer.size).train()
    expected, ids = plain_losses(model, TEXTS, tokenizer), tokenizer.encode_texts(TEXTS)
    for size in (1, 5, 16):
        score = score_texts(model, stream, CONTEXT, size)
        np.testing.assert_allclose(score.losses, expected, rtol=1e-5)
        assert score.targets.tolist() == [len(one) - 1 for one in ids]
        assert score.bytes.sum() == sum(len(text.encode()) for text in TEXTS)  # the template puts a bos first: every byte counts
        metrics = score.metrics()
        assert tuple(metrics) == CausalLMSection.metrics
        assert metrics["loss"] == pytest.approx(sum(expected) / score.target_tokens, rel=1e-6)
        assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
        assert metrics["bits_per_byte"] == pytest.approx(sum(expected) / math.log(2) / score.bytes.sum(), rel=1e-6)
    assert model.training  # as before


def test_few_long_pieces_are_read_at_once(stream, model, monkeypatch):
    sizes = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape)))
    whole = score_texts(model, stream, CONTEXT, 4)
    assert max(rows for rows, _ in sizes) == 4
    sizes.clear()
    monkeypatch.setattr(text_scores, "BATCH_TOKENS", 2 * CONTEXT)
    found = score_texts(model, stream, CONTEXT, 4)
    assert {rows for rows, length in sizes if length == CONTEXT - 1} == {2}
    assert max(rows for rows, length in sizes if 2 * length < CONTEXT) == 4
    np.testing.assert_allclose(found.losses, whole.losses, rtol=1e-5)
    sizes.clear()
    monkeypatch.setattr(text_scores, "BATCH_TOKENS", 1)
    np.testing.assert_allclose(score_texts(model, stream, CONTEXT, 4).losses, whole.losses, rtol=1e-5)
    assert {rows for rows, _ in sizes} == {1}


def test_without_a_bos_the_first_id_and_its_bytes_are_not_scored(tmp_path):
    tokenizer = tokenizer_of(add_bos=False)
    texts = ["the cat", "x Mädchen", "x"]
    model = tiny_model("gpt2", CONTEXT, vocab_size=tokenizer.size)
    score, ids = score_texts(model, stream_of(tmp_path, tokenizer, texts), CONTEXT, 4), tokenizer.encode_texts(texts)
    assert score.targets.tolist() == [max(len(row) - 1, 0) for row in ids]
    assert (count_targets(stream_of(tmp_path, tokenizer, ["x", TEXTS[0], TEXTS[0]]), 1) > 0).tolist() == [False, True]
    first = [len(tokenizer.decode(row[:1]).encode()) for row in ids]
    assert score.bytes.tolist() == [len(text.encode()) - skipped for text, skipped in zip(texts, first, strict=True)]
    np.testing.assert_allclose(score.losses, plain_losses(model, texts, tokenizer), rtol=1e-5)


def test_little_is_padding(stream, model):
    shapes = []
    model.embedding.register_forward_hook(lambda _module, args, _out: shapes.append(args[0].numel()))
    score = score_texts(model, stream, CONTEXT, 4)
    assert score.target_tokens / sum(shapes) > 0.9


def test_max_tokens_takes_the_first_whole_texts(stream, model):
    everything = score_texts(model, stream, CONTEXT, 4)
    limit = int(everything.targets[:4].sum())
    for tokens, texts in [(limit, 4), (limit - 1, 3), (limit + everything.targets[4] - 1, 4), (1, 1), (10**9, len(TEXTS))]:
        score = score_texts(model, stream, CONTEXT, 4, max_tokens=int(tokens))
        np.testing.assert_allclose(score.losses, everything.losses[:texts], rtol=1e-5)
        assert (count_targets(stream, int(tokens)) == everything.targets[:texts]).all()
        assert (score.bytes == everything.bytes[:texts]).all()


def test_scores_add_up(stream, tokenizer, model, tmp_path):
    parts = [score_texts(model, stream_of(tmp_path, tokenizer, texts), CONTEXT, 4) for texts in (TEXTS[:5], TEXTS[5:])]
    whole = score_texts(model, stream, CONTEXT, 4).metrics()
    assert (parts[0] + parts[1]).metrics() == pytest.approx(whole, rel=1e-6)


def test_progress_counts_every_target(stream, model):
    reported = []
    score = score_texts(model, stream, CONTEXT, 4, work=BatchWork(reported.append))
    assert sum(reported) == score.target_tokens == count_targets(stream).sum()


def test_half_a_score_is_no_score(stream, model):
    answers = iter([False, False, True])
    with pytest.raises(Stopped):
        score_texts(model, stream, CONTEXT, 4, work=BatchWork(should_stop=lambda: next(answers)))


def test_nothing_to_score(tmp_path, model):
    with pytest.raises(DataError, match="nothing to score"):
        score_texts(model, stream_of(tmp_path, tokenizer_of(add_bos=False), ["", "x"]), CONTEXT, 4)


def test_ids_outside_the_vocabulary(stream):
    with pytest.raises(ModelError, match="vocabulary ends at 98"):
        score_texts(tiny_model("gpt2", CONTEXT, vocab_size=99), stream, CONTEXT, 4)


def test_numbers_that_are_not_finite(stream, tokenizer):
    model = tiny_model("llama", CONTEXT, vocab_size=tokenizer.size)
    with torch.no_grad():
        model.head.weight.mul_(1e5)
    assert score_texts(model, stream, CONTEXT, 4).metrics()["perplexity"] == math.inf
    with torch.no_grad():
        model.head.weight[0] = math.nan
    assert all(math.isnan(score_texts(model, stream, CONTEXT, 4).metrics()[name]) for name in CausalLMSection.metrics[:3])
