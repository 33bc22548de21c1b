"""The questions that are made of a row, and the scores of their answers: minimal pairs, and choices after examples in the prompt."""

import math

import numpy as np
import pytest
from tiny_writers import tiny_model

from tfkit.data import Row
from tfkit.errors import DataError
from tfkit.evaluation.judging import FewShot, Judgement, MinimalPairs, Verdict, judge_by_likelihood, verdict_metrics
from tfkit.evaluation.likelihood import Likelihood, Question
from tfkit.objectives.metrics import unit_weights
from tfkit.recipe.schema.label_sections import FewShotSection
from tfkit.tokenizer import train_byte_bpe


def row(number: int, **values: object) -> Row:
    given = {"context": f"question {number}?", "choices": [f"yes {number}", f"no {number}"], "label": "1"} | values
    return Row(f"{given['context']}\n{' '.join(given['choices'] or ())}", f"rows.jsonl:{number}", {k: v for k, v in given.items() if v})


ROWS = [row(number) for number in range(1, 7)]


def few_shot(examples: list[Row] = ROWS, **fields: object) -> FewShot:
    return FewShot(FewShotSection(kind="few_shot", **fields), examples)


def answer(log_prob: float, tokens: int = 1, size: int = 1) -> Likelihood:
    return Likelihood(log_prob, tokens, size, False, False)


def test_without_shots_the_prompt_is_the_question() -> None:
    judge = few_shot(template="Q: {context}\nA: {answer}")
    assert judge.questions(0, ROWS[0]) == [
        *(Question("Q: question 1?\nA: ", f"{word} 1") for word in ("yes", "no")),
        *(Question("A: ", f"{word} 1") for word in ("yes", "no")),
    ]
    assert few_shot().questions(0, ROWS[0])[2] == Question(" ", "yes 1")  # the same tokens as behind the question


def test_shots_are_rows_of_the_training_data_as_the_template_writes_them() -> None:
    judge = few_shot(shots=5, template="Q: {context}\nA: {answer}", separator="\n--\n")
    prompt = judge.prompt(3, ROWS[3])
    *examples, question = prompt.split("\n--\n")
    assert question == "Q: question 4?\nA: "
    assert sorted(examples) == sorted(f"Q: question {n}?\nA: no {n}" for n in (1, 2, 3, 5, 6))  # never the row itself, right answers


def test_the_draws_are_a_function_of_seed_and_row() -> None:
    first, again, other = (few_shot(shots=3, seed=seed) for seed in (1, 1, 2))
    prompts = [[judge.prompt(n, one) for n, one in enumerate(ROWS)] for judge in (first, again, other)]
    assert prompts[0] == prompts[1] != prompts[2]
    assert len({first.prompt(number, row(99)) for number in range(9)}) > 4  # another draw for each row


def test_all_copies_of_a_row_are_kept_out_of_its_prompt() -> None:
    judge = few_shot([*ROWS[:3], *[ROWS[0]] * 4], shots=2)
    for number in range(20):
        assert "question 1?" not in judge.prompt(number, ROWS[0]).rpartition("\n\n")[0]
    with pytest.raises(DataError, match=r"rows\.jsonl:1: objective.shots is 3, but data.train has 7 rows, 5 of them the row itself"):
        few_shot([*ROWS[:3], *[ROWS[0]] * 4], shots=3).prompt(0, ROWS[0])


def test_each_normalization_prefers_its_own_answer() -> None:
    three = row(1, choices=["a", "b", "c", "d"], label="c")
    answers = [answer(-2, 1, 1), answer(-3, 3, 2), answer(-4, 2, 8), answer(-9, 3, 4)]
    alone = [answer(-1), answer(-4), answer(-4), answer(-20)]
    best_letters = {"none": "a", "tokens": "b", "bytes": "c", "unconditional": "d"}
    for normalize, best in best_letters.items():
        verdict = few_shot(normalize=normalize).verdict(three, [Question("so far", "a")], [*answers, *alone])
        assert (verdict.prediction["predicted"], verdict.prediction["label"], verdict.prediction["prompt"]) == (best, "c", "so far")
        each = {f"accuracy_{name}": float(letter == "c") for name, letter in best_letters.items()}
        assert verdict.scores == {"accuracy": float(best == "c"), **each, "chance": 0.25}


def test_the_labels_of_a_classification_are_choices() -> None:
    judge = few_shot(choices=["negative", "positive"], shots=1, examples=[row(9, choices=None, label="0")])
    asked = judge.questions(0, row(1, choices=None, label="positive"))
    assert asked[:2] == [Question("question 9? negative\n\nquestion 1? ", word) for word in ("negative", "positive")]
    assert judge.questions(0, row(1))[0].continuation == "yes 1"  # a row's own choices come first


def test_a_row_that_cannot_be_asked_is_bad() -> None:
    for values, message in (
        ({"choices": None}, "no answers to choose from"),
        ({"choices": ["a", ""]}, "answer 1, counted from 0, has no text"),
        ({"label": "7"}, "the label '7' is none of the 2 answers"),
    ):
        assert f"rows.jsonl:3: {message}" in few_shot().questions(0, row(3, **values)).message


def test_an_empty_sentence_is_bad_and_bad_examples_can_be_left_out() -> None:
    found = MinimalPairs().questions(0, row(0, good="the cat", bad=" "))
    assert "the bad sentence is empty" in found.message
    bad = row(9, label="x")
    with pytest.raises(DataError, match="skip bad rows"):
        few_shot([*ROWS, bad], shots=2)
    kept = FewShot(FewShotSection(kind="few_shot", shots=2), [bad, *ROWS], "skip")
    assert kept.prompt(0, row(50)) == few_shot(shots=2).prompt(0, row(50))


def test_equally_probable_sentences_are_not_right() -> None:
    pair = Row("", "pairs.jsonl:1", {"good": "he sees", "bad": "he see", "group": "agreement"})
    judge = MinimalPairs()
    assert judge.questions(0, pair) == [Question("", "he sees"), Question("", "he see")]
    rights = [judge.verdict(pair, [], [answer(good), answer(bad)]).scores for good, bad in ((-1, -2), (-2, -2), (-3, -2))]
    assert rights == [{"accuracy": right, "accuracy.agreement": right} for right in (1.0, 0.0, 0.0)]


def test_the_metrics_are_means_over_the_rows_that_have_them() -> None:
    of_rows = ({"accuracy": 1.0, "accuracy.a": 1.0}, {"accuracy": 0.0, "accuracy.b": 0.0}, {"accuracy": 1.0})
    scores = verdict_metrics([Verdict(scores, {}) for scores in of_rows])
    assert scores(unit_weights(3)) == {"accuracy": pytest.approx(2 / 3), "accuracy.a": 1.0, "accuracy.b": 0.0}
    drawn = scores(np.array([2.0, 0.0, 1.0]))
    assert (drawn["accuracy"], drawn["accuracy.a"]) == (1.0, 1.0)
    assert math.isnan(drawn["accuracy.b"])


@pytest.fixture(scope="module")
def judged():
    tokenizer = train_byte_bpe(["question 1? yes no"] * 3, 280, add_bos=True)
    model = tiny_model("gpt2", 20, vocab_size=tokenizer.size)

    def judge(rows: list[Row], **options: object) -> Judgement:
        return judge_by_likelihood(model, tokenizer, few_shot(shots=2), rows, 3, **options)

    return judge


def test_the_limit_takes_the_first_whole_rows(judged) -> None:
    every = judged(ROWS)
    one = judged(ROWS, max_tokens=1)
    assert (len(every.verdicts), len(one.verdicts)) == (6, 1)
    two = judged(ROWS, max_tokens=judged(ROWS[:2]).tokens)
    assert [found.prediction for found in two.verdicts] == [found.prediction for found in every.verdicts[:2]]
    assert one.tokens < two.tokens < every.tokens
    assert len(judged(ROWS, max_tokens=two.tokens - 1).verdicts) == 1
    assert every.cut == 6  # three rows of a prompt are more than 20 tokens


def test_bad_rows_are_counted_or_end_it(judged) -> None:
    skipped: dict[str, object] = {}
    rows = [ROWS[0], row(9, label="x"), ROWS[1]]
    found = judged(rows, on_bad_row="skip", skipped=skipped)
    assert [one.prediction["place"] for one in found.verdicts] == ["rows.jsonl:1", "rows.jsonl:2"]
    assert {kind: one.rows for kind, one in skipped.items()} == {"label 'x'": 1}
    with pytest.raises(DataError, match=r"rows\.jsonl:9: the label 'x'"):
        judged(rows)
