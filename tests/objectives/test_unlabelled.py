"""Answers to rows without a label: they equal those of the same rows with one, whose inputs must not depend on the label."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_chat
import test_classification
import test_multi_label
import test_multiple_choice
import test_question_answering
import test_tagging
import test_text_to_text
import torch
from tiny_examples import ENCODER, batch_of, model, section_of, stored

from tfkit.data import Encoded, ExampleBatch, Row
from tfkit.data.columns.record_columns import Columns, Record
from tfkit.data.columns.rows import BadRow
from tfkit.objectives.labelled import Answer

NUMBER = ENCODER | {"head": {"kind": "classes", "count": 1, "pool": "first", "dense": "tanh", "bias": True}}


def asked(objective: Any, made: Sequence[Mapping[str, Any]]) -> list[Row | BadRow]:
    """Return the rows without their answers."""
    columns = Columns(section_of(objective).asked_roles)
    answers = ("label", "labels", "answers", "tags", "output", "fr")
    return [columns.take(Record({k: v for k, v in row.items() if k not in answers}, f"rows:{i}")) for i, row in enumerate(made, 1)]


def bad_row(objective: Any, row: Mapping[str, Any]) -> str:
    """Return why a row has no answer."""
    [found] = objective.encode_unlabelled(asked(objective, [row]))
    return str(found.message)


def answered(objective: Any, ours: Any, made: Sequence[Mapping[str, Any]], **options: Any) -> list[Answer]:
    """Return the answers to all rows in one batch, in evaluation mode."""
    rows = asked(objective, made)
    encoded = objective.encode_unlabelled(rows)
    assert all(isinstance(one, Encoded) for one in encoded)
    numbers = np.arange(len(rows))
    batch = objective.collate(ExampleBatch([[one.example()] for one in encoded], numbers * 0, numbers))
    with torch.no_grad():
        return list(objective.answers(ours.eval(), batch, rows, **options))


def both(folder: Path, objective: Any, ours: Any, made: list[dict[str, Any]]) -> tuple[list[Answer], list[dict[str, Any]]]:
    """Return the answers to the rows without their labels, and the predictions of an evaluation of the labelled rows."""
    batch = batch_of(folder, made, objective)
    with torch.no_grad():
        wanted = [found.prediction for found in objective.predict(ours.eval(), batch)]
    return answered(objective, ours, made, all_labels=True), wanted


def test_classes_have_the_probabilities_of_the_softmax(tmp_path: Path) -> None:
    objective, ours = test_classification.classification(), model(test_classification.CONFIG)
    found, wanted = both(tmp_path, objective, ours, test_classification.ROWS)
    assert [one.prediction for one in found] == [one["predicted"] for one in wanted]
    assert [one.probability for one in found] == pytest.approx([one["probability"] for one in wanted], rel=1e-5)
    for one in found:
        assert [*one.probabilities] == [*objective.labels]
        assert sum(one.probabilities.values()) == pytest.approx(1, abs=1e-6)
        assert one.probability == max(one.probabilities.values()) == one.probabilities[one.prediction]
    assert answered(objective, ours, test_classification.ROWS)[0].probabilities is None


def test_labels_that_do_not_exclude_each_other_have_a_probability_each(tmp_path: Path) -> None:
    objective = test_multi_label.multi_label()
    found, wanted = both(tmp_path, objective, model(test_multi_label.CONFIG), test_multi_label.ROWS)
    assert [one.prediction for one in found] == [one["predicted"] for one in wanted]
    assert {len(one.prediction) for one in found} == {2, 3}
    for one, right in zip(found, wanted, strict=True):
        assert [*one.probabilities] == [*objective.labels]
        assert one.probability == [one.probabilities[label] for label in one.prediction]
        for label, probability in one.probabilities.items():
            assert (probability > 0.5) == (label in one.prediction)
            assert right["probabilities"].by_label()[label] == pytest.approx(probability, rel=1e-5)


def test_answers_in_a_context_are_those_of_an_evaluation_and_may_be_none(tmp_path: Path) -> None:
    objective, rows = test_question_answering.answering(max_answer_tokens=1), test_question_answering.ROWS
    found, wanted = both(tmp_path, objective, model(test_question_answering.CONFIG), rows)
    assert [one.prediction for one in found] == [one["predicted"] for one in wanted]
    assert "" in {one.prediction for one in found} != {""}
    for one, row in zip(found, rows, strict=True):
        assert all(text in row["context"] for text in one.probabilities)
        assert sum(one.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert 0 < one.probability <= one.probabilities[one.prediction] + 1e-6


def test_a_number_has_no_probability(tmp_path: Path) -> None:
    objective = test_classification.classification(labels=(), regression=True)
    found, wanted = both(tmp_path, objective, model(NUMBER), [row | {"label": 0.5} for row in test_classification.ROWS])
    assert [one.prediction for one in found] == pytest.approx([one["predicted"] for one in wanted], rel=1e-5)
    assert {(one.probability, one.probabilities) for one in found} == {(None, None)}


def test_each_word_has_a_tag_and_those_beyond_the_context_none(tmp_path: Path) -> None:
    rows, cut = test_tagging.ROWS, 0
    found, wanted = both(tmp_path, test_tagging.tagging(length=12), model(test_tagging.CONFIG), rows)
    for one, row, right in zip(found, rows, wanted, strict=True):
        read = len(right["predicted"])
        assert (one.prediction[:read], len(one.prediction)) == (right["predicted"], len(row["tokens"]))
        assert one.prediction[read:] == one.probability[read:] == one.probabilities[read:] == [None] * (len(row["tokens"]) - read)
        assert all(max(every.values()) == likely for every, likely in zip(one.probabilities[:read], one.probability, strict=False))
        cut += read < len(row["tokens"])
    assert 0 < cut < len(rows)


def test_a_word_without_a_token_is_read_as_an_unknown_one() -> None:
    """Such a word has a tag, like every word; a row without words has no answer."""
    objective, ours = test_tagging.tagging(), model(test_tagging.CONFIG)
    one, other = answered(objective, ours, [{"tokens": ["the", word, "cat", "sat"]} for word in ("\u200b", "☃")])
    assert (one.prediction, one.probability) == (other.prediction, pytest.approx(other.probability))
    assert None not in one.prediction
    assert bad_row(objective, {"tokens": []}) == "rows:1: the words give no token; remove the row"


def test_the_chosen_answer_is_a_text(tmp_path: Path) -> None:
    objective, ours, made = test_multiple_choice.choice(), model(test_multiple_choice.GPT), test_multiple_choice.rows(None)
    found, wanted = both(tmp_path, objective, ours, made)
    assert [one.prediction for one in found] == [row["choices"][one["predicted"]] for row, one in zip(made, wanted, strict=True)]
    scores = torch.tensor(wanted[0]["scores"]).softmax(0).tolist()
    assert found[0].probabilities == pytest.approx(dict(zip(made[0]["choices"], scores, strict=True)), rel=1e-5)
    [twice] = answered(objective, ours, [made[0] | {"choices": ["the cat", "a dog", "the cat"]}], all_labels=True)
    assert ([*twice.probabilities], sum(twice.probabilities.values())) == (["the cat", "a dog"], pytest.approx(1))
    assert bad_row(objective, {"context": "the", "choices": ["cat"]}) == "rows:1: 1 answers, and nothing to choose; remove the row"


def test_a_written_answer_has_the_prompt_of_the_labelled_row(tmp_path: Path) -> None:
    """If a conversation ends with an answer, that answer is asked for; if it ends with a question, the next one."""
    made = test_chat.rows()
    begun = [row | ({"messages": row["messages"][:-1]} if "messages" in row else {}) for row in made]
    for objective, labelled, unlabelled in (
        (test_text_to_text.objective(), test_text_to_text.ROWS, test_text_to_text.ROWS),
        (test_chat.chat(), made, made),
        (test_chat.chat(), made, begun),
    ):
        found = stored(tmp_path, labelled, objective)
        for number, one in enumerate(objective.encode_unlabelled(asked(objective, unlabelled))):
            assert objective.prompt_ids(one.example()) == objective.prompt_ids(found[number])
            assert one.length == len(objective.prompt_ids(one.example()))


def test_a_row_that_asks_for_no_text_is_bad() -> None:
    assert bad_row(test_text_to_text.objective(), {"en": ""}) == "rows:1: the source has no text; correct or remove the row"
    only_system = {"messages": [{"role": "system", "content": "Be brief."}]}
    assert bad_row(test_chat.chat(), only_system) == "rows:1: there is no message of a user to answer; correct the row"
    too_long = "tokens, which leave no room for an answer in a row of 20; shorten or remove the row"
    assert too_long in bad_row(test_chat.chat(length=20), {"instruction": "the cat " * 20})
