"""Question answering against transformers' windows, loss and logits, and against the official script's scores; bad rows, micro-batches."""

import collections
import itertools
import json
import math
import re
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_examples import ENCODER, WORDS, batch_of, judged, model, opened, stored, texts, tokenizer
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from tfkit.data import Row
from tfkit.data.sources.open_sources import open_source
from tfkit.errors import DataError, ModelError, UsageError
from tfkit.hub import load
from tfkit.objectives.metrics.texts import answer_scores
from tfkit.objectives.question_answering import NO_ANSWER, QuestionAnswering, Span, best_spans, merge
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.reading.read import read_document
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.question_answering_section import QuestionAnsweringSection
from tfkit.tokenizer import save_tokenizer, train_byte_bpe
from tfkit.tokenizer.joined_texts import WindowEncoder

TOKENIZER = tokenizer()
CONFIG = ENCODER | {"head": {"kind": "spans"}}
DISTILBERT = CONFIG | {"embedding": {"norm": True}, "norm": {"kind": "layer", "placement": "post", "eps": 1e-12}}
Rows = list[dict[str, Any]]


def made(count: int = 16, seed: int = 4, longest: int = 45) -> Rows:
    """Return questions about random words; some contexts have several windows, and every fourth question has no answer."""
    random = np.random.default_rng(seed)
    rows: Rows = []
    for i, question in enumerate(texts(count, seed, longest=5)):
        words = random.choice(WORDS, int(random.integers(6, longest))).tolist()
        first = int(random.integers(0, len(words) - 2))
        start, text = len(" ".join([*words[:first], ""])), " ".join(words[first : first + 2])
        rows.append({"question": question, "context": " ".join(words), "answers": [{"text": text, "answer_start": start}] if i % 4 else []})
    return rows


ROWS = made()


def answering(length: int = 24, **section: Any) -> QuestionAnswering:
    given = {"unanswerable": True, "doc_stride": 4, "max_answer_tokens": 5} | section
    return QuestionAnswering(QuestionAnsweringSection(kind="question_answering", **given), TOKENIZER, length)


def test_windows_and_ends_are_those_of_transformers(tmp_path: Path) -> None:
    """transformers' run_qa.py makes the windows with `stride` and `truncation="only_second"`."""
    batch = batch_of(tmp_path, ROWS, answering())
    save_tokenizer(TOKENIZER, tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    asked = [[row[name] for row in ROWS] for name in ("question", "context")]
    given = {"truncation": "only_second", "return_overflowing_tokens": True, "return_offsets_mapping": True, "return_tensors": "pt"}
    found = theirs(*asked, max_length=24, stride=4, padding=True, **given)
    assert batch.input_ids.tolist() == found["input_ids"].tolist()
    assert batch.segment_ids.tolist() == found["token_type_ids"].tolist()
    rows = found["overflow_to_sample_mapping"].tolist()
    assert batch.extras["row"].tolist() == rows
    assert len(rows) > 1.5 * len(ROWS)
    ends = []
    for window, row in enumerate(rows):
        offsets = zip(found["offset_mapping"][window].tolist(), found.sequence_ids(window), strict=True)
        spans = [span if of == 1 else None for span, of in offsets]
        assert batch.extras["spans"][window].tolist() == [span or [-1, -1] for span in spans]
        for answer in ROWS[row]["answers"] or [{"text": "", "answer_start": -1}]:
            start, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
            begins = [place for place, span in enumerate(spans) if span and span[0] == start]
            stops = [place for place, span in enumerate(spans) if span and span[1] == end]
            ends.append([begins[0], stops[0]] if begins and stops and start >= 0 else [0, 0])
    assert batch.labels.tolist() == ends
    assert {end == [0, 0] for row, end in zip(rows, ends, strict=True) if ROWS[row]["answers"]} == {True, False}


@pytest.mark.parametrize("config", [CONFIG, DISTILBERT], ids=["bert", "distilbert"])
def test_logits_and_loss_are_those_of_transformers(tmp_path: Path, config: dict[str, Any]) -> None:
    """Each window is compared alone, because transformers' softmax includes the padding of a batch."""
    objective, ours = answering(), model(config).eval()
    theirs = opened(tmp_path / "model", AutoModelForQuestionAnswering, ours, TOKENIZER)
    total = windows = 0.0
    with torch.no_grad():
        for row in ROWS[:6]:
            batch = batch_of(tmp_path, [row], objective)
            losses = []
            for window, (start, end) in enumerate(batch.labels):
                real = slice(None) if batch.padding_mask is None else batch.padding_mask[window]
                ids, segments = batch.input_ids[window : window + 1, real], batch.segment_ids[window : window + 1, real]
                given = {"token_type_ids": segments} if config is CONFIG else {}
                output = theirs(input_ids=ids, start_positions=start[None], end_positions=end[None], **given)
                found = ours(input_ids=ids, segment_ids=segments).logits[0]
                torch.testing.assert_close(found, torch.stack([output.start_logits[0], output.end_logits[0]], -1), atol=1e-4, rtol=0)
                losses.append(output.loss)
            torch.testing.assert_close(objective.loss(ours, batch)["spans"], torch.stack(losses).sum(), atol=1e-4, rtol=0)
            total, windows = total + float(sum(losses)), windows + len(losses)
    batch = batch_of(tmp_path, ROWS[:6], objective)
    assert objective.counts(batch) == {"spans": windows}
    assert judged(ours, objective, batch)[1]["loss"] == pytest.approx(total / windows, abs=1e-4)
    theirs.save_pretrained(tmp_path / "theirs")
    assert load(tmp_path / "theirs").config.head.kind == "spans"


# ---------------------------------------------------------------------------------------------------------- what is predicted


@pytest.mark.thorough
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.booleans())
def test_the_best_answer_is_the_best_of_all_parts_of_all_windows(seed: int, longest: int, is_answerable: bool) -> None:
    logits = torch.randn(3, 9, 2, generator=torch.Generator().manual_seed(seed))
    spans = torch.full((3, 9, 2), -1)
    for window in range(3):  # tokens 3 to 7 are of the context, two letters each; the windows share some
        spans[window, 3:8] = torch.tensor([[10 * place, 10 * place + 2] for place in range(3 * window, 3 * window + 5)])
    none = None if is_answerable else float((logits[:, 0, 0] + logits[:, 0, 1]).min())
    found = merge(best_spans(logits, spans, longest), none)
    wanted: dict[tuple[int, int], float] = {}
    for w, i, j in itertools.product(range(3), range(3, 8), range(3, 8)):
        if i <= j < i + longest:
            part = (int(spans[w, i, 0]), int(spans[w, j, 1]))
            wanted[part] = max(wanted.get(part, -math.inf), float(logits[w, i, 0] + logits[w, j, 1]))
    best = max(wanted.values())
    if none is not None and none > best:
        assert found[0] == Span(none, *NO_ANSWER)
    else:
        assert (found[0].score, wanted[found[0][1:]]) == (best, best)
    parts = [span for span in found if span[1:] != NO_ANSWER]
    assert [span.score for span in parts] == sorted(wanted.values(), reverse=True)[: len(parts)]
    assert len(parts) == min(20, len(wanted))


def test_no_answer_is_predicted_where_its_lowest_score_is_above_every_part() -> None:
    windows = [[Span(2.0, 5, 9), Span(1.0, 5, 7)], [Span(3.0, 5, 9)]]
    assert merge(windows, None) == [Span(3.0, 5, 9), Span(1.0, 5, 7)]
    assert merge(windows, 3.5)[0] == Span(3.5, *NO_ANSWER)
    assert merge(windows, 3.0)[0] == Span(3.0, 5, 9)


def test_predictions_are_parts_of_the_context_and_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    objective, ours = answering(unanswerable=False), model(CONFIG).eval()
    rows = [row for row in ROWS if row["answers"]]
    with torch.no_grad():
        together = [result.prediction for result in objective.predict(ours, batch_of(tmp_path, rows, objective))]
        for row, found in zip(rows, together, strict=True):
            [alone] = objective.predict(ours, batch_of(tmp_path, [row], objective))
            assert (alone.prediction["predicted"], alone.prediction["answers"]) == (found["predicted"], [row["answers"][0]["text"]])
            assert alone.prediction["probability"] == pytest.approx(found["probability"], rel=1e-4)
            start = found["answer_start"]
            assert row["context"][start : start + len(found["predicted"])] == found["predicted"] != ""
            exact, f1 = answer_scores(found["predicted"], found["answers"])
            assert (alone.sums["exact_match"], alone.sums["f1"]) == ((exact, 1), (f1, 1))


# ------------------------------------------------------------------------------------------------------------------- scores


def official(prediction: str, answers: list[str]) -> tuple[float, float]:
    """Return the functions of SQuAD 2.0's evaluation script, version 2.0, copied here as a reference."""

    def normalize(text: str) -> str:
        text = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
        return " ".join(re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", text).split())

    def f1(gold: str, mine: str) -> float:
        gold_tokens, tokens = (normalize(one).split() if one else [] for one in (gold, mine))
        same = sum((collections.Counter(gold_tokens) & collections.Counter(tokens)).values())
        if len(gold_tokens) == 0 or len(tokens) == 0:
            return int(gold_tokens == tokens)
        if same == 0:
            return 0
        precision, recall = 1.0 * same / len(tokens), 1.0 * same / len(gold_tokens)
        return (2 * precision * recall) / (precision + recall)

    gold = [answer for answer in answers if normalize(answer)] or [""]
    return max(int(normalize(one) == normalize(prediction)) for one in gold), max(f1(one, prediction) for one in gold)


ANSWERS = st.lists(st.sampled_from(["the", "A", "an", "cat", "Cat.", "dog's", "U.S.", "--", "1,000", "Straße", "theme", "  "]), max_size=4)


@settings(max_examples=300, deadline=None)
@given(ANSWERS, st.lists(ANSWERS, max_size=3))
def test_scores_are_those_of_the_official_script(prediction: list[str], answers: list[list[str]]) -> None:
    arguments = " ".join(prediction), [" ".join(answer) for answer in answers]
    assert answer_scores(*arguments) == official(*arguments)


# --------------------------------------------------------------------------------------------------------------------- rows


CONTEXT = "The naïve cat sat on the mat. A red hat!"
CAT = {"question": "who sat", "context": CONTEXT, "answers": [{"text": "cat", "answer_start": 10}]}


def test_answers_in_every_form(tmp_path: Path) -> None:
    flat, nested = {"text": "naïve cat", "answer_start": 4}, {"text": ["naïve cat"], "answer_start": [4]}
    for answers in (nested, [flat], flat, json.dumps(nested, ensure_ascii=False)):
        batch = batch_of(tmp_path, [CAT | {"answers": answers}], answering(length=48))
        [[first, last]] = batch.labels.tolist()
        spans = batch.extras["spans"][0].tolist()
        assert (spans[first][0], spans[last][1]) == (4, 13), answers


def test_an_answer_begins_behind_the_space_that_a_token_has(tmp_path: Path) -> None:
    codec = tokenizer("byte_bpe", vocab_size=400)
    objective = QuestionAnswering(QuestionAnsweringSection(kind="question_answering"), codec, 64)
    batch = batch_of(tmp_path, [CAT | {"answers": [{"text": "cat sat", "answer_start": 10}]}], objective)
    [[first, last]] = batch.labels.tolist()
    assert codec.decode(batch.input_ids[0, first : last + 1].tolist()) == " cat sat"
    assert batch.extras["spans"][0, first].tolist()[0] == 10


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "another place": (
        {"answers": [{"text": "cat", "answer_start": 9}]},
        r"the answer 'cat' is not in the context at character 9 \(there is ' ca', and it is at 10\); correct answer_start",
    ),
    "nowhere": ({"answers": [{"text": "dog", "answer_start": -3}]}, r"the answer 'dog' .* \(there is 'The'\)"),
    "blank": ({"answers": [{"text": " ", "answer_start": 3}]}, "an answer has no text"),
    "none": ({"answers": []}, "the question has no answer; if that is meant, set objective.unanswerable: true"),
    "no start": ({"answers": {"text": ["cat"]}}, "column 'answers' holds an answer without text, not answers with text and answer_start"),
    "a word": ({"answers": "cat"}, "column 'answers' holds text, not answers with text and answer_start"),
    "deep": ({"answers": "[" * 100_000}, "column 'answers' holds text, not answers with text and answer_start"),
    "not there": ({"answers": ["dog", "cow"]}, "the context does not contain the answer 'dog'"),
}


@pytest.mark.parametrize(("changes", "error"), BAD.values(), ids=BAD)
def test_what_is_wrong_with_a_row_is_named_with_its_place(tmp_path: Path, changes: dict[str, Any], error: str) -> None:
    objective = answering(unanswerable=False)
    with pytest.raises(DataError, match=r"rows.jsonl:2: " + error):
        stored(tmp_path, [CAT, CAT | changes], objective)


def test_a_row_without_a_question_or_a_context_is_skipped_and_counted(tmp_path: Path) -> None:
    good = CAT | {"answers": ["cow", "cat"]}
    found = stored(tmp_path, [good, good | {"question": "\u200b"}, good | {"context": "", "answers": []}], answering())
    assert len(found) == 1
    assert found.skipped["no tokens"].rows == 2
    scores = answering().wrong(Row("", "", CAT)).sums
    assert [scores[name] for name in ("exact_match", "f1", "no_answer_exact_match")] == [(0, 1), (0, 1), (0, 0)]


def test_an_answer_without_a_position_is_the_first_one_in_its_context(tmp_path: Path) -> None:
    """Answers that the context does not contain are left out."""
    found, placed = (stored(tmp_path, [row], answering())[0] for row in (CAT | {"answers": ["cow", "cat"]}, CAT))
    assert [array.tolist() for array in found.values()] == [array.tolist() for array in placed.values()]


def test_the_nested_files_of_squad_are_rows(tmp_path: Path) -> None:
    answers = CAT["answers"]
    asked = [{"id": "1", "question": "who", "answers": answers}, {"id": "2", "question": "what", "answers": []}]
    other = {"context": "the dog ran", "qas": [{"id": "3", "question": "which", "answers": [], "is_impossible": True}]}
    data = [{"title": "x", "paragraphs": [{"context": CONTEXT, "qas": asked}]}, {"title": "y", "paragraphs": [other]}]
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"version": "v2.0", "data": data}))
    rows = list(open_source(SourceSection(path=str(path)), "all", None, roles=QuestionAnsweringSection.roles).rows())
    assert [row.values for row in rows] == [
        {"question": "who", "context": CONTEXT, "answers": answers},
        {"question": "what", "context": CONTEXT, "answers": []},
        {"question": "which", "context": "the dog ran", "answers": []},
    ]
    assert rows[0].input_key == rows[1].input_key != rows[2].input_key  # a context is held out as a whole
    assert rows[1].place.endswith("squad.json, item 1, paragraph 1, question 2")
    assert rows[0].text == f"who\n{CONTEXT}"


def test_a_long_question_is_cut_and_a_context_without_room_is_refused(tmp_path: Path) -> None:
    found = stored(tmp_path, [CAT | {"question": "the cat " * 20}, *ROWS], answering())
    assert (found.truncated, Path(found.first_truncated).name) == (1, "rows.jsonl:1")
    assert len({*found[0]["sizes"].tolist()} - {24}) <= 1
    with pytest.raises(ModelError, match="rows of 6 tokens have no room for text"):
        answering(length=6)
    with pytest.raises(ModelError, match=r"needs a special token before the question, .* use a model with a WordPiece tokenizer"):
        QuestionAnswering(QuestionAnsweringSection(kind="question_answering"), tokenizer("byte_bpe", vocab_size=400, add_bos=False), 24)


def test_a_question_is_cut_before_a_character_of_which_it_would_have_only_some_bytes() -> None:
    """With the whole character, the question would be longer than half of the room, which was once refused as a damaged tokenizer."""
    bytes_only = train_byte_bpe(["the cat"], 257, add_bos=True)
    [windows] = WindowEncoder(bytes_only, 10, 4).encode([("ab🙂 or not", "the cat")])
    assert windows.truncated
    assert {window.question_tokens for window in windows.windows} == {2}


def test_an_answer_that_is_in_no_window_is_counted(tmp_path: Path) -> None:
    words = " ".join(WORDS * 2)
    found = stored(tmp_path, [{"question": "who", "context": words, "answers": [{"text": words, "answer_start": 0}]}], answering())
    assert (found.truncated, {*found[0]["ends"].tolist()}) == (1, {0})


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["model.preset=gpt2"], "the objective question_answering trains encoders; this model has a decoder alone"),
        (["tokenizer.kind=unigram"], "tokenizer.kind: unigram with these settings puts no token before a text, .*: use wordpiece"),
        (["tokenizer={kind: byte_bpe, add_bos: false}"], "byte_bpe with these settings puts no token before a text"),
        (["tokenizer={kind: bpe_byte_fallback, add_bos: false}"], "bpe_byte_fallback with these settings puts no token before a text"),
        (["data.train.0.columns={answers: [a, b]}"], "answers is read from one column: name one"),
        (["generation.prompts=[the]"], "a model that is trained for question_answering does not continue text; remove it"),
        (["model.head={kind: tags, count: 2}"], "needs a head of kind spans, not tags"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(words: list[str], error: str) -> None:
    given = ["model.preset=bert-tiny", "tokenizer.kind=wordpiece", "data.train=[{path: rows.json}]", "training.steps=1"]
    objective = {"objective": {"kind": "question_answering"}}
    assert read_document(objective, "r", parse_overrides(given)).recipe.objective.head == "spans"
    with pytest.raises(UsageError, match=error):
        read_document(objective, "r", parse_overrides([*given, *words]))
