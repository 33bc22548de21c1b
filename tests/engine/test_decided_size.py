"""The decisions of a fine-tuning without a recipe that depend on rows, model and memory."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tfkit.engine.recognition import decided_size
from tfkit.engine.recognition.decided_size import RowTokens, Size, decide_size, row_tokens
from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.recipe.starting_points import LORA
from tfkit.recipe.tasks import ModelSummary, RowCounts
from tfkit.tokenizer import train_tokenizer

TEXT = RowCounts(1, 1_000_000)
LARGE = ModelSummary("m", "llama", "decoder", "lm", 135_000_000, True, False, tuned=True, context_length=8192, token_bytes=2_000_000)
ENCODER = ModelSummary("m", "bert", "encoder", "masked_lm", 22_000_000, False, False, context_length=512, token_bytes=10**6)
WHOLE = RowTokens(225_280, 225_280)  # one text file


def decided(counts: RowCounts, start: ModelSummary, kind: str, tokens: RowTokens | None, **given: Any) -> Size:
    return decide_size(counts, start, kind, {"data": {}, **given}, tokens)


def test_rows_of_text_are_shorter_than_a_long_context() -> None:
    """8,192 tokens a row, 32 rows a step: no line in minutes. The command line's own length stays, and each long step has a line."""
    size = decided(TEXT, LARGE, "causal_lm", WHOLE)
    assert (size.sequence_length, size.context_length, size.batch_size, size.log_every, size.lr) == (576, None, 4, 1, 5e-5)
    assert size.because.startswith(
        "about 352 rows of 576 tokens, as the texts, the memory and the time of a step allow; the model keeps its context of 8,192; "
    )
    rests = "(measured with SmolLM2-135M-Instruct; extrapolated to other sizes)"
    beside = "unless a trial of 1.7e-05 and 0.00015 shows a better one"
    assert size.because.endswith(f"; 4 per step, 88 steps per epoch, 2 epochs; rate 5e-05, for 135 million parameters {rests}, {beside}")
    assert size.trial_rates == [1.7e-5, 1.5e-4]
    size = decided(TEXT, LARGE, "causal_lm", WHOLE, model={"context_length": 256}, training={"batch_size": 2})
    assert (size.sequence_length, size.context_length, size.batch_size, size.log_every) == (None, None, 2, None)
    assert decided(TEXT, LARGE, "causal_lm", WHOLE, training={"micro_batch_size": 3}).batch_size == 6  # in place of 4
    size = decided(TEXT, LARGE, "causal_lm", WHOLE, model={"context_length": 256}, data={"sequence_length": 100})
    assert (size.sequence_length, size.context_length, "about 2,028 rows of 100 tokens; " in size.because) == (None, None, True)
    size = decided(TEXT, LARGE, "causal_lm", WHOLE, data={"sequence_length": None})
    assert (size.sequence_length, "about 25 rows of 8,192 tokens; " in size.because) == (None, True)
    assert decided(TEXT, LARGE, "causal_lm", WHOLE, model={"context_length": 0}).batch_size == 4  # the model refuses it later
    given = decided(TEXT, LARGE, "causal_lm", WHOLE, training={"steps": 9}, optimizer={"lr": 1.0})
    assert given.because.endswith("steps per epoch")  # what is given was not decided
    assert decided(TEXT, replace(LARGE, context_length=512), "causal_lm", WHOLE).sequence_length is None
    assert decided(TEXT, replace(LARGE, token_bytes=10**15), "causal_lm", WHOLE).sequence_length == 128
    small = decided(TEXT, replace(LARGE, parameters=4_000_000), "causal_lm", WHOLE)
    assert (small.sequence_length, small.batch_size, small.log_every) == (1024, 8, None)


def test_short_texts_need_no_long_rows() -> None:
    short = replace(TEXT, rows=10_000)
    assert decided(short, LARGE, "causal_lm", RowTokens(40, 150)).sequence_length == 192
    assert decided(short, LARGE, "causal_lm", RowTokens(20, 60)).sequence_length == 128


def test_long_conversations_make_small_steps() -> None:
    """All of them may be read, and none is cut."""
    rows = replace(TEXT, rows=1_000)
    sizes = [decided(rows, LARGE, "chat", RowTokens(mean, 10**5)) for mean in (60, 600)]
    assert [(size.batch_size, size.sequence_length, size.log_every) for size in sizes] == [(32, None, 1), (8, None, 1)]


def test_few_rows_hold_out_enough_to_choose_by() -> None:
    fractions = [decided(replace(TEXT, rows=rows), LARGE, "chat", RowTokens(60, 99)).held_out for rows in (10, 32, 100, 252, 10**4)]
    assert fractions == [0.3, 0.3, 0.2, 0.1, 0.1]
    assert decided(TEXT, LARGE, "causal_lm", WHOLE).held_out == 0.1  # of one text
    assert decide_size(TEXT, LARGE, "chat", {"data": {"validation": None}}, None).held_out is None


def test_relative_positions_read_rows_that_are_longer_than_the_context() -> None:
    t5 = ModelSummary("m", "t5", "both", "lm", 10**6, False, True, context_length=64, token_bytes=1000, reads_further=True)
    rows = replace(TEXT, rows=400)
    size = decided(rows, t5, "text_to_text", RowTokens(70, 130))
    assert (size.context_length, size.sequence_length) == (192, None)
    assert "192 tokens hold 95 % of the rows, so the model's context of 64 becomes that long" in size.because
    assert decided(rows, t5, "text_to_text", RowTokens(20, 60)).context_length is None
    assert decided(rows, replace(t5, reads_further=False), "text_to_text", RowTokens(70, 130)).context_length is None
    assert decided(rows, t5, "text_to_text", RowTokens(70, 10**6)).context_length == 1024


def test_many_classes_need_more_epochs() -> None:
    rows = replace(TEXT, rows=1_000, labels=Counter({f"class {number}": 3 for number in range(300)}))
    assert decided(rows, ENCODER, "classification", RowTokens(12, 20)).epochs == 10
    assert decided(replace(rows, labels={"a": 500, "b": 500}), ENCODER, "classification", RowTokens(12, 20)).epochs == 6  # 150 steps of 32


@pytest.mark.parametrize(("kind", "field"), [("classification", "labels"), ("tagging", "tags")])
def test_rare_classes_take_more_and_smaller_steps_at_a_fifth_of_the_rate(kind: str, field: str) -> None:
    rows = replace(TEXT, rows=10_000)
    common, rare = (
        decided(replace(rows, **{field: {"O": most, "B-x": 1000 - most}}), ENCODER, kind, RowTokens(12, 20)) for most in (890, 910)
    )
    assert (common.epochs, common.batch_size, common.lr) == (3, 32, 5e-4)
    assert (rare.epochs, rare.batch_size, rare.lr, rare.trial_rates) == (6, 16, 1e-4, [3.3e-5, 3e-4])
    why = "0.09 of the labels are not the most frequent one, so twice the epochs, half of the rows per step and a fifth of the rate"
    assert why in rare.because
    alone = decided(replace(rows, **{field: {"O": 1000}}), ENCODER, kind, RowTokens(12, 20))
    assert alone.epochs == 3  # there is nothing to learn


@pytest.mark.parametrize(("count", "positives", "held_out"), [(1_500, 34, 0.3), (3_000, 32, 0.21), (10_000, 90, 0.1), (1_500, 340, 0.1)])
def test_enough_rows_of_rare_classes_are_held_out(count: int, positives: int, held_out: float) -> None:
    """Of 1,500 rows with 34 of a thousand in the rarer classes, a tenth holds five."""
    rows = replace(TEXT, rows=count)
    labelled = replace(rows, labels={"other": 1000 - positives, "a": positives - 10, "b": 10})
    assert decided(labelled, ENCODER, "classification", RowTokens(12, 20)).held_out == held_out
    tagged = replace(rows, tags={"O": 1000 - positives, "B-x": positives})
    assert decided(tagged, ENCODER, "tagging", RowTokens(12, 20)).held_out == 0.1, "a row has many tags"


@pytest.mark.parametrize(("free", "adapter"), [(3_000_000_000, None), (2_000_000_000, LORA)])
def test_an_adapter_is_for_a_model_that_the_memory_cannot_train(monkeypatch: pytest.MonkeyPatch, free: int, adapter: Any) -> None:
    monkeypatch.setattr(decided_size, "available_bytes", lambda: free)
    rows = replace(TEXT, rows=200)
    size = decided(rows, LARGE, "chat", RowTokens(60, 99))
    assert size.adapter == adapter
    assert ("a training of all weights needs 2.43 GB, and 2 are free" in size.because) == (adapter is not None)
    assert size.lr == (5e-5 if adapter is None else 5e-4)
    assert ("for LoRA of 135 million parameters" in size.because) == (adapter is not None)
    own = decided(rows, LARGE, "chat", RowTokens(60, 99), training={"adapter": {"rank": 2}})
    assert (own.adapter, own.lr) == (None, 5e-4)
    assert decided(TEXT, LARGE, "causal_lm", WHOLE, training={"adapter": {"rank": 2}}).lr == 5e-4
    assert decided(rows, replace(LARGE, has_chat_tokens=False), "chat", RowTokens(60, 99)).adapter is None  # new tokens are trained


def test_tokens_are_counted_or_estimated() -> None:
    rows = [f"the {'cat sat on a mat ' * number}" for number in range(100)]
    codec = train_tokenizer(TokenizerSection(kind="byte_bpe", vocab_size=300), rows)
    counts = sorted(len(ids) for ids in codec.encode_texts(rows))
    assert row_tokens(rows, codec) == RowTokens(sum(counts) / 100, counts[94])
    found = row_tokens(["the cat " * 100_000, ""], codec)
    assert found.most == pytest.approx(len(codec.encode_texts(["the cat " * 100_000])[0]), rel=0.01)  # of the beginning
    assert row_tokens([], codec) is row_tokens(["a"], None) is None
    assert "about 225 rows of 1,000 tokens" in decided(TEXT, LARGE, "causal_lm", None, model={"context_length": 1000}).because
