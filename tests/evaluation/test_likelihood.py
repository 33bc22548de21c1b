"""The likelihood of continuations, against transformers' logits of the same files, and of texts that fit no model at once."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_writers import tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from tfkit.errors import ModelError
from tfkit.evaluation.likelihood import Ids, Question, encode_questions, likelihoods, score_questions
from tfkit.hub.model_reading import Loaded
from tfkit.model.transformer import Transformer
from tfkit.tokenizer import Tokenizer, train_byte_bpe

CONTEXT = 14
TEXTS = ["the cat sat on the mat and saw the hat ", "hello hello help", "Mädchen 世界 🙂", "a b c d e f g"] * 3
PAIRS = [("the cat", " sat on the mat"), ("the cat ", "sat on the mat"), ("the cat sat on the", " hat"), ("", "hello the cat")]
PAIRS += [("Mädchen", " 世界 🙂"), ("a b c d e f g\n", "the mat"), ("the cat", " sat"), ("the cat", " sat")]
QUESTIONS = [Question(*pair) for pair in PAIRS]


def tokenizer_of(add_bos: bool) -> Tokenizer:
    return train_byte_bpe(TEXTS, 300, add_bos=add_bos)


def tiny(family: str, tokenizer: Tokenizer) -> Transformer:
    return tiny_model(family, CONTEXT, vocab_size=tokenizer.size)


@torch.no_grad()
def by_transformers(folder: Path, question: Question) -> tuple[float, int]:
    """The formula, on transformers' model and tokenizer: log P(rest of the whole | context), and how many tokens that is."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    context = question.context.rstrip()
    before = tokenizer(context).input_ids if context else [tokenizer.bos_token_id]
    whole = tokenizer(question.context + question.continuation).input_ids
    whole = whole if whole[:1] == before[:1] else before + whole
    ids = torch.tensor([whole])
    log_probs = model(ids).logits[0, :-1].double().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return log_probs[len(before) - 1 :].sum().item(), len(whole) - len(before)


@pytest.mark.parametrize(("family", "add_bos"), [("gpt2", False), ("gpt2", True), ("llama", True)])
def test_likelihoods_are_those_of_transformers(tmp_path: Path, family: str, add_bos: bool) -> None:
    tokenizer = tokenizer_of(add_bos)
    model = tiny(family, tokenizer)
    Loaded(model=model, codec=tokenizer, config=model.config, family=family, folder=tmp_path).save(tmp_path)
    found = likelihoods(model, tokenizer, QUESTIONS, batch_size=3)
    for question, one in zip(QUESTIONS, found, strict=True):
        expected, tokens = by_transformers(tmp_path, question)
        assert (one.tokens, one.bytes) == (tokens, len(question.continuation.encode())), question
        assert one.log_prob == pytest.approx(expected, abs=2e-4), question


def test_the_batch_size_changes_nothing() -> None:
    tokenizer = tokenizer_of(True)
    model = tiny("llama", tokenizer)
    questions = [*QUESTIONS, Question("the cat sat on the mat " * 4, "and saw the hat")]
    one, seven = (likelihoods(model, tokenizer, questions, size) for size in (1, 7))
    assert [a.log_prob for a in one] == pytest.approx([b.log_prob for b in seven], abs=1e-5)
    assert [a.greedy for a in one] == [b.greedy for b in seven]


def test_a_token_over_the_boundary_is_read_as_the_text_has_it() -> None:
    """`hello` is one token: behind `he` the whole word is scored, not `llo`, which no text of the model's has."""
    tokenizer = tokenizer_of(True)
    (word,) = tokenizer.encode_bare(["hello"])
    (bos,) = tokenizer.prefix
    assert len(word) == 1
    for one in (tokenizer, tokenizer_of(False)):
        assert encode_questions(one, [Question("he", "llo")]) == [Ids([bos, int(word[0])], 1, [])]
    end = len(tokenizer.encode_bare(["the cat h"])[0])  # `h` alone is a token, of which nothing is left in the whole
    [(ids, first, _)] = encode_questions(tokenizer, [Question("the cat h", "ello the mat")])
    assert (tokenizer.decode(ids, skip_special_tokens=True), first) == ("the cat hello the mat", 1 + end)


def test_what_begins_a_text_is_there_once() -> None:
    tokenizer = train_byte_bpe(TEXTS, 300, add_bos=True)
    (bos,) = tokenizer.prefix
    reading = Tokenizer.from_json(tokenizer.tokenizer_json, dict(tokenizer.settings) | {"split_special_tokens": False})
    token = reading.backend.id_to_token(bos)
    ids = encode_questions(reading, [Question(f"{token}the cat", " sat"), Question("the cat", " sat"), Question("", f"{token}the")])
    assert ids[0] == ids[1]
    assert ids[2].ids.count(bos) == 1


def formula(model: Transformer, ids: list[int], first: int) -> float:
    with torch.no_grad():
        log_probs = model.double()(torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
    model.float()
    return sum(log_probs[place - 1, ids[place]].item() for place in range(first, len(ids)))


def test_a_long_context_loses_its_beginning_and_a_long_continuation_comes_in_pieces() -> None:
    tokenizer = tokenizer_of(True)
    model = tiny("gpt2", tokenizer)
    ids = torch.randint(tokenizer.size, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    asked = [Ids(ids, 36, []), Ids(ids, 3, []), Ids(ids[: CONTEXT + 1], 1, [])]
    cut, long, whole = score_questions(model, [Question("", "")] * 3, asked, 2)
    assert cut.log_prob == pytest.approx(formula(model, ids[-CONTEXT - 1 :], CONTEXT + 1 - 4), abs=1e-4)
    pieces = [(2, 3, 17), (16, 17, 31), (25, 31, 40)]  # begin, first that is scored, end: each read with CONTEXT ids before its last
    expected = sum(formula(model, ids[begin:end], first - begin) for begin, first, end in pieces)
    assert long.log_prob == pytest.approx(expected, abs=1e-4)
    assert [(one.cut, one.tokens) for one in (cut, long, whole)] == [(True, 4), (True, 37), (False, CONTEXT)]


def test_greedy_says_whether_decoding_would_write_it() -> None:
    tokenizer = tokenizer_of(True)
    model = tiny("llama", tokenizer)
    (bos,) = tokenizer.prefix
    ids = [bos, 40]
    with torch.no_grad():
        for _ in range(5):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    other = [*ids[:-1], (ids[-1] + 1) % tokenizer.size]
    long = [bos, *range(30, 30 + CONTEXT)]  # two pieces, of which only the last one, of one id, is greedy
    with torch.no_grad():
        long.append(int(model(torch.tensor([long[1:]])).logits[0, -1].argmax()))
    asked = [Ids(ids, 2, []), Ids(other, 2, []), Ids(long, 1, []), Ids(long, CONTEXT + 1, [])]
    assert [one.greedy for one in score_questions(model, [Question("", "")] * 4, asked, 2)] == [True, False, False, True]


def test_an_encoder_reads_the_context() -> None:
    tokenizer = tokenizer_of(False)
    model = tiny_model("t5", vocab_size=tokenizer.size)
    questions = [Question("the cat", " sat on the mat"), Question("hello", " help"), Question("", "a b c")]
    found = likelihoods(model, tokenizer, questions, 2, start_id=5)
    assert math.isfinite(found[2].log_prob)  # nothing to read but what begins the decoder's text
    for question, one in zip(questions[:2], found, strict=False):
        source, target = tokenizer.encode_texts([question.context, question.continuation])
        with torch.no_grad():
            logits = model(torch.tensor([source]), decoder_input_ids=torch.tensor([[5, *target[:-1]]])).logits[0]
        expected = logits.double().log_softmax(-1).gather(1, torch.tensor(target)[:, None]).sum().item()
        assert one.log_prob == pytest.approx(expected, abs=1e-4)
        assert one.tokens == len(target)


def test_a_continuation_follows_the_token_that_the_decoder_is_forced_to_write_first() -> None:
    """It is read, as BART's <s> after </s>, and not scored."""
    tokenizer = tokenizer_of(False)
    [ids] = encode_questions(replace(tokenizer, forced_first_id=7), [Question("the cat", " sat")], start_id=5)
    [plain] = encode_questions(tokenizer, [Question("the cat", " sat")], start_id=5)
    assert (ids.ids, ids.first, ids.source) == ([5, 7, *plain.ids[1:]], 2, plain.source)


def test_a_tokenizer_of_another_model_is_refused() -> None:
    tokenizer = tokenizer_of(True)
    model = tiny("gpt2", train_byte_bpe(TEXTS, 260, add_bos=True))
    with pytest.raises(ModelError, match="they do not belong together"):
        likelihoods(model, tokenizer, QUESTIONS, 2)
