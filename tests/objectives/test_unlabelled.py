"""Answers to rows without a label: they equal those of the same rows with one, whose inputs must not depend on the label."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_chat import chat
from test_chat import rows as talks
from test_classification import CONFIG as CLASSES
from test_classification import ROWS as TEXTS
from test_classification import classification
from test_multi_label import CONFIG as LABEL_SETS
from test_multi_label import ROWS as LABELLED
from test_multi_label import multi_label
from test_multiple_choice import GPT, choice
from test_multiple_choice import rows as questions
from test_question_answering import CONFIG as SPANS
from test_question_answering import ROWS as CONTEXTS
from test_question_answering import answering
from test_tagging import CONFIG as TAGS
from test_tagging import ROWS as SENTENCES
from test_tagging import tagging
from test_text_to_text import ROWS as PAIRS
from test_text_to_text import objective as text_to_text
from tiny_examples import ENCODER, examples, model, whole_batch

from tfkit.data import Encoded, ExampleBatch, Row
from tfkit.data.columns.record_columns import Columns, Record
from tfkit.data.columns.rows import BadRow
from tfkit.objectives.labelled import Answer
from tfkit.recipe.schema.objective_facts import SECTIONS

NUMBER = ENCODER | {"head": {"kind": "classes", "count": 1, "pool": "first", "dense": "tanh", "bias": True}}


def asked(kind: str, made: Sequence[Mapping[str, Any]]) -> list[Row | BadRow]:
    """Return the rows without their answers."""
    columns = Columns(SECTIONS[kind](kind=kind).asked_roles)
    answers = ("label", "labels", "answers", "tags", "output", "fr")
    return [columns.take(Record({k: v for k, v in row.items() if k not in answers}, f"rows:{i}")) for i, row in enumerate(made, 1)]


def answered(objective: Any, ours: Any, rows: list[Any], **options: Any) -> list[Answer]:
    """Return the answers to all rows in one batch, in evaluation mode."""
    encoded = objective.encode_unlabelled(rows)
    assert all(isinstance(one, Encoded) for one in encoded)
    numbers = np.arange(len(rows))
    batch = objective.collate(ExampleBatch([[one.example()] for one in encoded], numbers * 0, numbers))
    with torch.no_grad():
        return list(objective.answers(ours.eval(), batch, rows, **options))


def predicted(folder: Path, objective: Any, ours: Any, made: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Return the predictions of an evaluation of the labelled rows."""
    batch = whole_batch(examples(folder, made, SECTIONS[kind].roles, objective), objective)
    with torch.no_grad():
        return [found.prediction for found in objective.predict(ours.eval(), batch)]


def test_classes_have_the_probabilities_of_the_softmax(tmp_path: Path) -> None:
    objective, ours = classification(), model(CLASSES)
    wanted = predicted(tmp_path, objective, ours, TEXTS, "classification")
    found = answered(objective, ours, asked("classification", TEXTS), all_labels=True)
    assert [one.prediction for one in found] == [one["predicted"] for one in wanted]
    assert [one.probability for one in found] == pytest.approx([one["probability"] for one in wanted], rel=1e-5)
    for one in found:
        assert [*one.probabilities] == [*objective.labels]
        assert sum(one.probabilities.values()) == pytest.approx(1, abs=1e-6)
        assert one.probability == max(one.probabilities.values()) == one.probabilities[one.prediction]
    assert answered(objective, ours, asked("classification", TEXTS))[0].probabilities is None


def test_labels_that_do_not_exclude_each_other_have_a_probability_each(tmp_path: Path) -> None:
    objective, ours = multi_label(), model(LABEL_SETS)
    wanted = predicted(tmp_path, objective, ours, LABELLED, "multi_label")
    found = answered(objective, ours, asked("multi_label", LABELLED), all_labels=True)
    assert [one.prediction for one in found] == [one["predicted"] for one in wanted]
    assert {len(one.prediction) for one in found} == {2, 3}
    for one, right in zip(found, wanted, strict=True):
        assert [*one.probabilities] == [*objective.labels]
        assert one.probability == [one.probabilities[label] for label in one.prediction]
        for label, probability in one.probabilities.items():
            assert (probability > 0.5) == (label in one.prediction)
            assert right["probabilities"].by_label()[label] == pytest.approx(probability, rel=1e-5)


def test_answers_in_a_context_are_those_of_an_evaluation_and_may_be_none(tmp_path: Path) -> None:
    objective, ours = answering(max_answer_tokens=1), model(SPANS)
    wanted = predicted(tmp_path, objective, ours, CONTEXTS, "question_answering")
    found = answered(objective, ours, asked("question_answering", CONTEXTS), all_labels=True)
    assert [one.prediction for one in found] == [one["predicted"] for one in wanted]
    assert "" in {one.prediction for one in found} != {""}
    for one, row in zip(found, CONTEXTS, strict=True):
        assert all(text in row["context"] for text in one.probabilities)
        assert sum(one.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert 0 < one.probability <= one.probabilities[one.prediction] + 1e-6


def test_a_number_has_no_probability(tmp_path: Path) -> None:
    objective, ours = classification(labels=(), regression=True), model(NUMBER)
    made = [row | {"label": 0.5} for row in TEXTS]
    wanted = predicted(tmp_path, objective, ours, made, "classification")
    found = answered(objective, ours, asked("classification", made), all_labels=True)
    assert [one.prediction for one in found] == pytest.approx([one["predicted"] for one in wanted], rel=1e-5)
    assert {(one.probability, one.probabilities) for one in found} == {(None, None)}


def test_each_word_has_a_tag_and_those_beyond_the_context_none(tmp_path: Path) -> None:
    objective, ours = tagging(length=12), model(TAGS)
    wanted = predicted(tmp_path, objective, ours, SENTENCES, "tagging")
    found = answered(objective, ours, asked("tagging", SENTENCES), all_labels=True)
    cut = 0
    for one, row, right in zip(found, SENTENCES, wanted, strict=True):
        read = len(right["predicted"])
        assert (one.prediction[:read], len(one.prediction)) == (right["predicted"], len(row["tokens"]))
        assert one.prediction[read:] == one.probability[read:] == one.probabilities[read:] == [None] * (len(row["tokens"]) - read)
        assert all(max(every.values()) == likely for every, likely in zip(one.probabilities[:read], one.probability, strict=False))
        cut += read < len(row["tokens"])
    assert 0 < cut < len(SENTENCES)


def test_a_word_without_a_token_is_read_as_an_unknown_one() -> None:
    """Such a word has a tag, like every word; a row without words has no answer."""
    objective, ours = tagging(), model(TAGS)
    odd, unknown = ({"tokens": ["the", word, "cat", "sat"]} for word in ("\u200b", "☃"))
    one, other = answered(objective, ours, asked("tagging", [odd, unknown]))
    assert (one.prediction, one.probability) == (other.prediction, pytest.approx(other.probability))
    assert None not in one.prediction
    [bad] = objective.encode_unlabelled(asked("tagging", [{"tokens": []}]))
    assert bad.message == "rows:1: the words give no token; remove the row"


def test_the_chosen_answer_is_a_text(tmp_path: Path) -> None:
    objective, ours, made = choice(), model(GPT), questions(None)
    wanted = predicted(tmp_path, objective, ours, made, "multiple_choice")
    found = answered(objective, ours, asked("multiple_choice", made), all_labels=True)
    assert [one.prediction for one in found] == [row["choices"][one["predicted"]] for row, one in zip(made, wanted, strict=True)]
    scores = torch.tensor(wanted[0]["scores"]).softmax(0).tolist()
    assert found[0].probabilities == pytest.approx(dict(zip(made[0]["choices"], scores, strict=True)), rel=1e-5)
    twice = [made[0] | {"choices": ["the cat", "a dog", "the cat"]}]
    [one] = answered(objective, ours, asked("multiple_choice", twice), all_labels=True)
    assert ([*one.probabilities], sum(one.probabilities.values())) == (["the cat", "a dog"], pytest.approx(1))
    [bad] = objective.encode_unlabelled(asked("multiple_choice", [{"context": "the", "choices": ["cat"]}]))
    assert bad.message == "rows:1: 1 answers, and nothing to choose; remove the row"


def test_a_written_answer_has_the_prompt_of_the_labelled_row(tmp_path: Path) -> None:
    """If a conversation ends with an answer, that answer is asked for; if it ends with a question, the next one."""
    objective = text_to_text()
    labelled = examples(tmp_path, PAIRS, SECTIONS["text_to_text"].roles, objective)
    for number, one in enumerate(objective.encode_unlabelled(asked("text_to_text", PAIRS))):
        assert objective.prompt_ids(one.example()) == objective.prompt_ids(labelled[number])
    [bad] = objective.encode_unlabelled(asked("text_to_text", [{"en": ""}]))
    assert bad.message == "rows:1: the source has no text; correct or remove the row"

    talking, made = chat(), talks()
    labelled = examples(tmp_path, made, SECTIONS["chat"].roles, talking)
    begun = [row | ({"messages": row["messages"][:-1]} if "messages" in row else {}) for row in made]
    for rows in (made, begun):
        for number, one in enumerate(talking.encode_unlabelled(asked("chat", rows))):
            assert talking.prompt_ids(one.example()) == talking.prompt_ids(labelled[number])
            assert one.length == len(talking.prompt_ids(one.example()))
    [bad] = talking.encode_unlabelled(asked("chat", [{"messages": [{"role": "system", "content": "Be brief."}]}]))
    assert bad.message == "rows:1: there is no message of a user to answer; correct the row"
    [bad] = chat(length=20).encode_unlabelled(asked("chat", [{"instruction": "the cat " * 20}]))
    assert "tokens, which leave no room for an answer in a row of 20; shorten or remove the row" in bad.message
