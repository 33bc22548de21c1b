"""Scores never drop a row: what the model cannot be given counts as wrong, and is counted."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from answer_runs import KINDS, REST, Progressed, made_rows
from test_evaluate_answers import evaluate, judged
from tiny_files import write_rows
from tiny_runs import pretrain, records

import tfkit

pytestmark = pytest.mark.usefixtures("in_place")

TAGS, CLASSES, SPANS, CHAT = "tags", "classes", "spans", "chat"
TOO_LONG = [{"role": "user", "content": "the cat " * 200}, {"role": "assistant", "content": "a dog"}]
COUNTED = {
    CLASSES: "counts as wrong: 1 label 'purple'",
    TAGS: "counts as wrong: 1 label 'B-plant'",
    SPANS: "counts as wrong: 1 no tokens",
    CHAT: "is in no loss, and counts as wrong where texts are compared: 1 no answer within the context",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run of four kinds, with a lost row to validate on; that of the classes skipped bad rows."""
    folder = tmp_path_factory.mktemp("lost")
    rows = made_rows(30)
    lost = {"words": ["the", "\ufe0f"], "names": ["O", "B-plant"], "label": "purple", "first": "\ufe0f", "talk": TOO_LONG}
    spoiled = [*rows[24:], {**rows[24], **lost}]
    for name, part in (("train", [*rows[:24], {"nothing": 1}]), ("valid", rows[24:]), ("spoiled", spoiled)):
        write_rows(folder / f"{name}.jsonl", part)
    with contextlib.chdir(folder):
        for name in (TAGS, CLASSES, SPANS, CHAT):
            model, objective, columns = KINDS[name]
            train, skip = ("train", ", on_bad_row: skip") if name == CLASSES else ("valid", "")
            files = ("train", train), ("validation", "spoiled")
            sources = (f"{part}: [{{path: {file}.jsonl, columns: {columns}}}]" for part, file in files)
            (folder / f"{name}.yaml").write_text(f"{model}\ndata: {{{', '.join(sources)}{skip}}}\nobjective: {objective}{REST}")
            counted = f"spoiled.jsonl: 1 row that the model cannot process {COUNTED[name]} (first spoiled.jsonl:7)"
            pretrain(folder / name, folder / f"{name}.yaml").exits(0, counted)
    return folder


def scored(folder: Path, name: str, rows: list[dict[str, Any]], *words: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return judged(folder, "--from", name, "--data", write_rows(folder / "rows.jsonl", rows), *words)


def test_classes(tmp_path: Path) -> None:
    rows = made_rows(10)
    spoiled = [*rows[:3], {**rows[0], "label": "purple"}, *rows[3:], {**rows[1], "text": "\ufe0f", "label": "red"}]
    (whole, _), (lost, lines) = (scored(tmp_path, CLASSES, some) for some in (rows, spoiled))
    assert whole["lost"] == {}
    assert lost["lost"] == {"label 'purple'": 1, "no tokens": 1}
    assert (whole["examples"], lost["examples"]) == (10, 12)
    assert lost["metrics"]["accuracy"] == pytest.approx(whole["metrics"]["accuracy"] * 10 / 12)
    assert lost["metrics"]["loss"] == pytest.approx(whole["metrics"]["loss"])
    assert lost["metrics"]["f1_macro"] < whole["metrics"]["f1_macro"]
    assert [one.get("lost") for one in lines] == [None] * 3 + ["label 'purple'"] + [None] * 7 + ["no tokens"]
    assert (lines[3]["label"], lines[3]["predicted"], lines[11]["label"]) == ("purple", "(no answer)", "red")
    assert lost["classes"]["purple"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}
    limited, few = scored(tmp_path, CLASSES, spoiled[:-1], "evaluation.max_tokens=1")
    assert (limited["examples"], limited["lost"], len(few)) == (1, {}, 1)


@pytest.mark.parametrize("name", [CLASSES, TAGS, SPANS])
def test_a_training_scores_its_held_out_rows_as_an_evaluation_does(tmp_path: Path, place: Path, name: str) -> None:
    """Also one that skips bad rows."""
    recorded = records(place / name)[-1]["evaluation"]
    own = evaluate(tmp_path, "--from", name, "--json").document
    assert sum(own["lost"].values()) == 1
    assert {metric: own["metrics"][metric] for metric in recorded} == pytest.approx(recorded, rel=1e-5)


def test_tags_also_of_words_beyond_the_context(tmp_path: Path) -> None:
    assert evaluate(tmp_path, "--from", TAGS, "--json").document["lost"] == {"label 'B-plant'": 1}
    rows = made_rows(10)
    longer = [*rows, {**rows[0], "words": ["cat"] * 70, "names": ["B-animal"] * 70}]
    (whole, _), (cut, lines) = (scored(tmp_path, TAGS, some) for some in (rows, longer))
    words = sum(len(row["words"]) for row in rows)
    right = cut["metrics"]["accuracy"] * (words + 70)
    assert right == pytest.approx(whole["metrics"]["accuracy"] * words + lines[-1]["predicted"].count("B-animal"))
    assert lines[-1]["tags"] == ["B-animal"] * 70
    assert lines[-1]["predicted"][40:] == ["(no answer)"] * 30
    assert cut["metrics"]["recall"] <= (whole["metrics"]["recall"] * 10 + 70) / 80


def test_written_texts(tmp_path: Path) -> None:
    """An answer beyond the context is compared with an empty text."""
    rows = made_rows(6)
    words = ["evaluation.text_metrics=[exact_match, chrf]"]
    (whole, _), (lost, lines) = (scored(tmp_path, CHAT, some, *words) for some in (rows, [{"talk": TOO_LONG}, *rows]))
    assert lost["lost"] == {"no answer within the context": 1}
    assert (lost["examples"], lost["inputs"], lines[0]["references"], lines[0]["text"]) == (7, whole["inputs"] + 1, ["a dog"], "")
    inputs = whole["inputs"]
    assert lost["metrics"]["exact_match"] == pytest.approx(whole["metrics"]["exact_match"] * inputs / (inputs + 1))
    assert lost["metrics"]["loss"] == pytest.approx(whole["metrics"]["loss"], rel=1e-6)
    assert set(lost["intervals"]) == set(lost["metrics"])


def test_a_training_that_skips_bad_rows_makes_no_evaluation_skip_them(tmp_path: Path) -> None:
    rows = [*made_rows(4), {"nothing": 1}]
    evaluate(tmp_path, "--from", CLASSES, "--data", write_rows(tmp_path / "rows.jsonl", rows)).exits(3, "rows.jsonl:5: no column")
    assert scored(tmp_path, CLASSES, rows, "data.on_bad_row=skip")[0]["examples"] == 4


def test_a_text_model_whose_training_skipped_rows_up_to_a_limit_is_used_like_any(base: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "text.jsonl", [*({"text": f"the cat number {number} sat"} for number in range(20)), {"nothing": 1}])
    data = f"data={{train: [{{path: {tmp_path}/text.jsonl}}], validation: 0.2, on_bad_row: skip, max_lost: 0.5}}"
    pretrain(tmp_path / "run", base / "tiny.yaml", data, "tokenizer.vocab_size=280").exits(0)
    assert len(tfkit.generate("the cat", {"generation.max_new_tokens": 2}, start=tmp_path / "run")) == 1
    assert tfkit.evaluate(start=tmp_path / "run", overrides={"data.on_bad_row": "skip"}).metrics["loss"] > 0


def test_rows_of_one_class_are_warned_of(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{**row, "label": "red"} for row in made_rows(5)])
    said = "all 5 rows have the label 'red': the metrics say nothing about the other classes"
    evaluate(tmp_path, "--from", CLASSES, "--data", rows).exits(0, said)


TEXTS = [{"path": "valid.jsonl"}]


@pytest.mark.parametrize(
    "words",
    [{"evaluation.text_metrics": ["chrf"]}, {"objective": {"kind": "causal_lm"}, "data.train": TEXTS, "data.validation": TEXTS}],
    ids=["rows", "texts"],
)
@pytest.mark.parametrize("most", [10, None])
def test_the_total_of_a_limited_evaluation_is_what_is_read(words: dict[str, Any], most: int | None) -> None:
    listener = Progressed()
    result = tfkit.evaluate(None, words | {"evaluation.max_tokens": most}, start=CHAT, listener=listener)
    assert result.examples < 6 or most is None
    total, done = listener.bars["scoring"]
    assert total == done
