"""tfkit inspect: what it shows is what the objective's own batch holds."""

import json
from pathlib import Path

import pytest
from tiny_files import write_rows
from tiny_runs import run_tfkit, write_corpus, write_recipe

from tfkit.__main__ import main


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))


def labelled(folder: Path) -> list[str]:
    rows = [{"text": " ".join(["the cat sat on the mat"] * (1 + i % 2)), "label": ["no", "yes"][i % 2]} for i in range(8)]
    write_rows(folder / "labelled.jsonl", rows)
    return ["objective={kind: classification}", "data={train: [{path: labelled.jsonl}]}", "evaluation.every=null"]


def test_a_language_model_has_a_loss_on_every_token_but_the_first(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(recipe), "--show", "2", "--json", "training.batch_size=4"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["objective"], document["first_step"]["rows"], len(document["rows"])) == ("causal_lm", 4, 2)
    for row in document["rows"]:
        kinds = [token["kind"] for token in row["tokens"]]
        assert (kinds[0], set(kinds[1:]), len(kinds)) == ("no loss", {"loss"}, 17)
    assert document["first_step"]["targets"] == {"lm": 4 * 16}


def test_the_class_of_a_text_and_its_padding_are_shown(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(recipe), "--show", "8", *labelled(recipe.parent), "training.batch_size=8"]) == 0
    shown = capsys.readouterr().out
    assert "labelled.jsonl:2: 13 tokens, label: yes\n" in shown
    assert shown.count("label: no") == 4
    assert shown.count("  pad   ") == 4
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "targets: 8 classes" in shown
    assert not (recipe.parent / "runs").exists()


def test_the_labels_of_a_text_are_shown(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": "the cat sat", "labels": labels} for labels in ("calm|odd", "", "odd")]
    write_rows(recipe.parent / "several.jsonl", rows)
    words = ["objective={kind: multi_label}", "data={train: [{path: several.jsonl}]}", "evaluation.every=null", "training.batch_size=3"]
    assert main(["inspect", str(recipe), *words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {row["place"]: row["labels"] for row in document["rows"]} == {
        "several.jsonl:1": ["calm", "odd"],
        "several.jsonl:2": [],
        "several.jsonl:3": ["odd"],
    }
    assert document["first_step"]["targets"] == {"labels": 6}
    assert {token["kind"] for row in document["rows"] for token in row["tokens"]} == {"no loss"}
    assert main(["inspect", str(recipe), *words]) == 0
    shown = capsys.readouterr().out
    assert all(f"tokens, labels: {labels}\n" in shown for labels in ("calm, odd", "none", "odd"))


def test_the_windows_of_a_question_and_the_answer_in_them(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = " ".join(["the cat sat on the mat"] * 3 + ["a dog ran"])
    rows = [{"question": "who ran", "context": context, "answers": [{"text": "a dog", "answer_start": context.index("a dog")}]}]
    rows += [{"question": "who sat", "context": "the cat", "answers": []}]
    write_rows(recipe.parent / "asked.jsonl", rows)
    words = [
        *("objective={kind: question_answering, unanswerable: true, doc_stride: 2}", "tokenizer={kind: wordpiece, vocab_size: 200}"),
        *("model={preset: bert-tiny, dim: 16, num_heads: 2, context_length: 20}", "data={train: [{path: asked.jsonl}]}"),
        *("evaluation.every=null", "training.batch_size=2"),
    ]
    assert main(["inspect", str(recipe), *words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    [*before, last], [other] = ([row for row in document["rows"] if row["place"].startswith(f"asked.jsonl:{line}")] for line in (1, 2))
    assert [row["place"] for row in (*before, last)] == [f"asked.jsonl:1, window {number}" for number in range(len(before) + 1)]
    assert (len(before) > 0, other["place"]) == (True, "asked.jsonl:2")
    for row in (*before, other):
        assert [token["token"] for token in row["tokens"] if token["label"] == "no answer" and token["kind"] == "loss"] == ["[CLS]"]
    assert "".join(token["token"].removeprefix("##") for token in last["tokens"] if token["label"] == "answer") == "adog"
    assert document["first_step"]["targets"] == {"spans": len(before) + 2}
    assert main(["inspect", str(recipe), *words]) == 0
    shown = capsys.readouterr().out
    assert ("[CLS]->no answer" in shown, "->answer: a token of the answer" in shown) == (True, True)


def test_a_number_is_shown_as_it_was_written(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": "the cat sat", "label": label} for label in (1.92, "-0.1", 3)]
    write_rows(recipe.parent / "numbers.jsonl", rows)
    words = ["objective={kind: classification, regression: true}", "data={train: [{path: numbers.jsonl}]}", "evaluation.every=null"]
    assert main(["inspect", str(recipe), *words, "training.batch_size=3"]) == 0
    shown = capsys.readouterr().out
    assert "targets: 3 values" in shown
    assert sorted(line.partition(": ")[2] for line in shown.splitlines() if line.startswith("numbers.jsonl")) == [
        *("4 tokens, label: -0.1", "4 tokens, label: 1.92", "4 tokens, label: 3.0")
    ]


def test_the_choices_of_a_row_and_the_right_one(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"context": "the cat", "choices": ["sat", "ran"], "label": 1}
    (recipe.parent / "choices.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    words = ["objective={kind: multiple_choice}", "data={train: [{path: choices.jsonl}]}", "evaluation.every=null"]
    words.append("tokenizer.special_tokens=[_start_, _delimiter_, _classify_]")
    assert main(["inspect", str(recipe), *words, "training.batch_size=1"]) == 0
    places = [line for line in capsys.readouterr().out.splitlines() if line.startswith("choices.jsonl:1, choice ")]
    assert [place.partition("with a loss, ")[2] for place in places] == ["right: no", "right: yes"]


def test_a_key_that_is_none_and_a_row_without_its_label(recipe: Path, tmp_path: Path) -> None:
    done = run_tfkit(tmp_path, ["inspect", str(recipe), "data.trian=1"])
    assert (done.code, done.out) == (2, "")
    assert "did you mean train" in done.err
    words = labelled(tmp_path)
    with (tmp_path / "labelled.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": "the cat"}\n')
    done = run_tfkit(tmp_path, ["inspect", str(recipe), *words])
    assert (done.code, done.out) == (3, "")
    assert "labelled.jsonl:9: no column 'label'" in done.err
    assert "columns: {label: NAME}" in done.err
