"""Multiple choice against the two losses of transformers' double-head models, and rows with different numbers of answers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_examples import TWO_LAYERS, batch_of, judged, model, opened, stored, texts, tokenizer
from tiny_layouts import GPT2_LAYOUT
from transformers import GPT2DoubleHeadsModel, OpenAIGPTDoubleHeadsModel

from tfkit.errors import DataError, ModelError
from tfkit.objectives.multiple_choice import MultipleChoice
from tfkit.objectives.objective import IGNORED
from tfkit.recipe.schema.label_sections import MultipleChoiceSection

SPECIAL = ["_start_", "_delimiter_", "_classify_"]
TOKENIZER = tokenizer("bpe_eow", special_tokens=SPECIAL)
START, DELIMITER, CLASSIFY = (TOKENIZER.backend.token_to_id(token) for token in SPECIAL)
GPT2: dict[str, Any] = GPT2_LAYOUT | TWO_LAYERS | {"head": {"kind": "lm", "tied": True, "choices": True}}
GPT = GPT2 | {"norm": {"kind": "layer", "placement": "post"}}


def rows(answers: int | None) -> list[dict[str, Any]]:
    """Return sixteen rows with this many answers each; None: two to four."""
    found = []
    for i, context in enumerate(texts(16, longest=8)):
        count = 2 + i % 3 if answers is None else answers
        found.append({"context": context, "choices": texts(count, seed=i + 5, longest=7), "label": i % count})
    return found


def choice(length: int = 24, **section: Any) -> MultipleChoice:
    return MultipleChoice(MultipleChoiceSection(kind="multiple_choice", **section), TOKENIZER, length)


@pytest.mark.parametrize(("config", "family"), [(GPT, OpenAIGPTDoubleHeadsModel), (GPT2, GPT2DoubleHeadsModel)])
def test_both_losses_are_those_of_transformers(tmp_path: Path, config: dict[str, Any], family: Any) -> None:
    objective, ours, made = choice(length=16), model(config).eval(), rows(3)
    batch = batch_of(tmp_path, made, objective)
    sequences = batch.input_ids.reshape(16, 3, -1)
    lengths = batch.padding_mask.sum(1).reshape(16, 3)
    with torch.no_grad():
        sums, losses, counts = objective.measure(ours, batch), objective.loss(ours, batch), objective.counts(batch)
        theirs = opened(tmp_path / "model", family, ours, TOKENIZER)
        labels = batch.input_ids.where(batch.padding_mask, IGNORED).reshape(16, 3, -1)
        right = torch.tensor([row["label"] for row in made])
        # No token sees the padding behind it, so theirs, which fails on a mask for several answers, needs none.
        output = theirs(input_ids=sequences, mc_token_ids=lengths - 1, labels=labels, mc_labels=right)
    torch.testing.assert_close(losses["choices"] / counts["choices"], output.mc_loss, atol=1e-5, rtol=0)
    torch.testing.assert_close(losses["lm"] / counts["lm"], output.loss, atol=1e-5, rtol=0)
    metrics = objective.metrics(sums)
    assert metrics["loss"] == pytest.approx(float(output.mc_loss + 0.5 * output.loss), abs=1e-5)
    assert metrics["accuracy"] == pytest.approx(float((output.mc_logits.argmax(-1) == right).double().mean()))


def test_sequences_are_start_context_delimiter_answer_classify_and_the_longer_text_is_cut(tmp_path: Path) -> None:
    made = rows(None)
    ids = {text: found for row in made for text in (row["context"], *row["choices"]) for found in TOKENIZER.encode_texts([text])}
    for length, start in ((24, "_start_"), (12, "_start_"), (11, None)):
        batch = batch_of(tmp_path, made, choice(length=length, start=start))
        pairs = [(row["context"], answer) for row in made for answer in row["choices"]]
        for found, mask, pair in zip(batch.input_ids, batch.padding_mask, pairs, strict=True):
            context, answer = (list(ids[text]) for text in pair)
            while len(context) + len(answer) > length - 2 - (start is not None):
                (answer if len(answer) >= len(context) else context).pop()
            begin = [] if start is None else [START]
            assert found[mask].tolist() == [*begin, *context, DELIMITER, *answer, CLASSIFY]
        assert batch.extras["row"].tolist() == [i for i, row in enumerate(made) for _ in row["choices"]]
        assert batch.extras["right"].tolist() == [n == row["label"] for row in made for n in range(len(row["choices"]))]


def test_rows_with_two_to_four_answers_are_each_their_own_softmax(tmp_path: Path) -> None:
    objective, ours, made = choice(lm_weight=0), model(GPT2).eval(), rows(None)
    batch = batch_of(tmp_path, made, objective)
    with torch.no_grad():
        scores = ours(**batch.inputs()).extra_logits[:, 0].double().split([len(row["choices"]) for row in made])
    mean = -float(sum(own.log_softmax(0)[row["label"]] for own, row in zip(scores, made, strict=True))) / 16
    right = sum(int(own.argmax()) == row["label"] for own, row in zip(scores, made, strict=True))
    loss, metrics = judged(ours, objective, batch)
    assert float(loss) == pytest.approx(mean, rel=1e-5)
    assert metrics == {"loss": pytest.approx(mean, rel=1e-5), "choices": pytest.approx(mean, rel=1e-5), "accuracy": right / 16}
    assert 0 < right < 16


def test_a_label_is_a_number_a_letter_or_a_text(tmp_path: Path) -> None:
    cases = [
        (1, ["a", "b"], 1),
        ("0", ["a", "b"], 0),
        ("a", ["a", "b"], 0),
        ("B", ["a", "b"], 1),
        ("2", ["1", "2"], 1),
        ("1", ["0", "1"], 1),
    ]
    for label, choices, right in cases:
        found = stored(tmp_path, [{"context": "the", "choices": choices, "label": label}], choice())
        assert found[0]["right"].tolist() == [right], label


def test_a_label_that_names_no_answer_or_two_is_refused(tmp_path: Path) -> None:
    for label, choices, message in (
        *((label, choices, f"the label '{label}' could mean two of the 2 answers") for label, choices in (("1", "13"), ("B", "BA"))),
        *((label, "ab", f"the label '{label}' is none of the 2 answers") for label in (2, "-1")),
        (0, ["a"], "1 answers, and nothing to choose"),
        (0, ["a", " "], "answer 1, counted from 0, has no text"),
    ):
        with pytest.raises(DataError, match=f"rows.jsonl:1: {message}"):
            stored(tmp_path, [{"context": "the", "choices": [*choices], "label": label}], choice())


def test_what_the_tokenizer_or_the_context_lacks_is_said() -> None:
    with pytest.raises(ModelError, match=r"no token '<none>', which objective.delimiter names; add it to tokenizer.special_tokens"):
        choice(delimiter="<none>")
    with pytest.raises(ModelError, match="rows of 4 tokens have no room"):
        choice(length=4)
