"""tfkit inspect: what it shows is what the objective's own batch holds."""

import json
from pathlib import Path

import pytest
from tiny_files import write_rows
from tiny_runs import run_here, run_tfkit, write_corpus, write_recipe


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))


def labelled(folder: Path) -> list[str]:
    rows = [{"text": " ".join(["the cat sat on the mat"] * (1 + i % 2)), "label": ["no", "yes"][i % 2]} for i in range(8)]
    write_rows(folder / "labelled.jsonl", rows)
    return ["objective={kind: classification}", "data={train: [{path: labelled.jsonl}]}", "evaluation.every=null"]


def test_a_language_model_has_a_loss_on_every_token_but_the_first(recipe: Path) -> None:
    document = run_here(["inspect", recipe, "--show", "2", "--json", "training.batch_size=4"]).exits(0).document
    assert (document["objective"], document["first_step"]["rows"], len(document["rows"])) == ("causal_lm", 4, 2)
    for row in document["rows"]:
        kinds = [token["kind"] for token in row["tokens"]]
        assert (kinds[0], set(kinds[1:]), len(kinds)) == ("no loss", {"loss"}, 17)
    assert document["first_step"]["targets"] == {"lm": 4 * 16}


def test_the_class_of_a_text_and_its_padding_are_shown(recipe: Path) -> None:
    shown = run_here(["inspect", recipe, "--show", "8", *labelled(recipe.parent), "training.batch_size=8"]).exits(0).out
    assert "labelled.jsonl:2: 13 tokens, label: yes\n" in shown
    assert shown.count("label: no") == 4
    assert shown.count("  pad   ") == 4
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "targets: 8 classes" in shown
    assert not (recipe.parent / "runs").exists()


def test_the_labels_of_a_text_are_shown(recipe: Path) -> None:
    rows = [{"text": "the cat sat", "labels": labels} for labels in ("calm|odd", "", "odd")]
    write_rows(recipe.parent / "several.jsonl", rows)
    words = ["objective={kind: multi_label}", "data={train: [{path: several.jsonl}]}", "evaluation.every=null", "training.batch_size=3"]
    document = run_here(["inspect", recipe, *words, "--json"]).exits(0).document
    assert {row["place"]: row["labels"] for row in document["rows"]} == {
        "several.jsonl:1": ["calm", "odd"],
        "several.jsonl:2": [],
        "several.jsonl:3": ["odd"],
    }
    assert document["first_step"]["targets"] == {"labels": 6}
    assert {token["kind"] for row in document["rows"] for token in row["tokens"]} == {"no loss"}
    shown = run_here(["inspect", recipe, *words]).exits(0).out
    assert all(f"tokens, labels: {labels}\n" in shown for labels in ("calm, odd", "none", "odd"))


def test_the_windows_of_a_question_and_the_answer_in_them(recipe: Path) -> None:
    context = " ".join(["the cat sat on the mat"] * 3 + ["a dog ran"])
    rows = [{"question": "who ran", "context": context, "answers": [{"text": "a dog", "answer_start": context.index("a dog")}]}]
    rows += [{"question": "who sat", "context": "the cat", "answers": []}]
    write_rows(recipe.parent / "asked.jsonl", rows)
    words = [
        *("objective={kind: question_answering, unanswerable: true, doc_stride: 2}", "tokenizer={kind: wordpiece, vocab_size: 200}"),
        *("model={preset: bert-tiny, dim: 16, num_heads: 2, context_length: 20}", "data={train: [{path: asked.jsonl}]}"),
        *("evaluation.every=null", "training.batch_size=2"),
    ]
    document = run_here(["inspect", recipe, *words, "--json"]).exits(0).document
    [*before, last], [other] = ([row for row in document["rows"] if row["place"].startswith(f"asked.jsonl:{line}")] for line in (1, 2))
    assert [row["place"] for row in (*before, last)] == [f"asked.jsonl:1, window {number}" for number in range(len(before) + 1)]
    assert (len(before) > 0, other["place"]) == (True, "asked.jsonl:2")
    for row in (*before, other):
        assert [token["token"] for token in row["tokens"] if token["label"] == "no answer" and token["kind"] == "loss"] == ["[CLS]"]
    assert "".join(token["token"].removeprefix("##") for token in last["tokens"] if token["label"] == "answer") == "adog"
    assert document["first_step"]["targets"] == {"spans": len(before) + 2}
    shown = run_here(["inspect", recipe, *words]).exits(0).out
    assert ("[CLS]->no answer" in shown, "->answer: a token of the answer" in shown) == (True, True)


def test_a_number_is_shown_as_it_was_written(recipe: Path) -> None:
    rows = [{"text": "the cat sat", "label": label} for label in (1.92, "-0.1", 3)]
    write_rows(recipe.parent / "numbers.jsonl", rows)
    words = ["objective={kind: classification, regression: true}", "data={train: [{path: numbers.jsonl}]}", "evaluation.every=null"]
    shown = run_here(["inspect", recipe, *words, "training.batch_size=3"]).exits(0).out
    assert "targets: 3 values" in shown
    assert sorted(line.partition(": ")[2] for line in shown.splitlines() if line.startswith("numbers.jsonl")) == [
        *("4 tokens, label: -0.1", "4 tokens, label: 1.92", "4 tokens, label: 3.0")
    ]


def test_the_choices_of_a_row_and_the_right_one(recipe: Path) -> None:
    row = {"context": "the cat", "choices": ["sat", "ran"], "label": 1}
    (recipe.parent / "choices.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    words = ["objective={kind: multiple_choice}", "data={train: [{path: choices.jsonl}]}", "evaluation.every=null"]
    words.append("tokenizer.special_tokens=[_start_, _delimiter_, _classify_]")
    done = run_here(["inspect", recipe, *words, "training.batch_size=1"]).exits(0)
    places = [line for line in done.out.splitlines() if line.startswith("choices.jsonl:1, choice ")]
    assert [place.partition("with a loss, ")[2] for place in places] == ["right: no", "right: yes"]


def test_a_key_that_is_none_and_a_row_without_its_label(recipe: Path, tmp_path: Path) -> None:
    run_tfkit(tmp_path, ["inspect", str(recipe), "data.trian=1"]).refuses(2, "did you mean train")
    words = labelled(tmp_path)
    with (tmp_path / "labelled.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": "the cat"}\n')
    run_tfkit(tmp_path, ["inspect", str(recipe), *words]).refuses(3, "labelled.jsonl:9: no column 'label'", "columns: {label: NAME}")
