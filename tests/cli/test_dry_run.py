"""--dry-run: the recipe on stdout, the first rows and the size of the run on stderr, no run folder; and inspect without a recipe."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_files import parse_rows, write_rows
from tiny_runs import Done, hashes, run_here

import tfkit
from tfkit.errors import UsageError
from tfkit.recipe import read_recipe
from tfkit.recipe.reading.overrides import parse_overrides

pytestmark = pytest.mark.usefixtures("in_place")

PAIRS = [("cat", "mat"), ("dog", "hat")]
ROWS = [{"text": f"the {animal} sat on the {place} {number}", "label": animal} for number in range(20) for animal, place in PAIRS]
WORDS = ["--from", "start", "--data", "rows.jsonl", "--threads", "1"]
LATER = ["carbon.enabled=false", "training.precision=fp32"]


@pytest.fixture(scope="module")
def place(base: Path, starts: Path) -> Path:
    shutil.copytree(starts / "bert", base / "start")
    write_rows(base / "rows.jsonl", ROWS)
    return base


def command(*words: object) -> Done:
    return run_here(words)


def test_the_decided_recipe_is_shown_and_runs_as_it_was_saved(place: Path) -> None:
    before = {*place.iterdir()}
    planned = command("finetune", *WORDS, *LATER, "--dry-run").exits(0, "[CLS] the")
    assert {*place.iterdir()} == before
    assert planned.out.startswith("# classification: a text, and a label")
    assert "model: {from: start}" in planned.out
    assert planned.err.count("# classification: a text") == 0, "stdout has it"
    lines = planned.err.splitlines()
    assert any(re.match(r"\d+ steps of \d+ rows, about \d+ tokens each, [\d.]+ epochs; micro-batches of \d+ rows", line) for line in lines)
    assert any(line.startswith("roughly ") for line in lines)
    (place / "task.yaml").write_text(planned.out, encoding="utf-8")
    for run, words in {"saved": ["task.yaml"], "direct": [*WORDS, *LATER]}.items():
        command("finetune", *words, "training.steps=2", "--run", run).exits(0)
    assert hashes(place / "saved", 2) == hashes(place / "direct", 2)


def test_of_a_long_row_the_ends_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    words = ["tiny.yaml", "model.context_length=300", "training.batch_size=2"]
    shown = command("pretrain", *words, "--dry-run").err.splitlines()
    [first, last] = [number for number, line in enumerate(shown) if "shows all" in line]
    assert re.fullmatch(r"  \.\.\. \d\d lines; `tfkit inspect` shows all", shown[first])
    assert last - first == 15  # six lines, an empty one, the next row's place, six lines
    inspected = command("inspect", *words, "--show", "2").out.splitlines()
    assert [line for line in shown if line in inspected][:12] == [*shown[first - 7 : first], *shown[first + 1 : first + 6]]
    assert (any("shows all" in line for line in inspected), len(inspected) > 40) == (False, True)


def test_the_reason_why_no_rates_are_tried_is_that_of_the_run(place: Path) -> None:
    reason = "the run has 2 steps, and each rate would be tried for 4"
    planned = command("finetune", *WORDS, *LATER, "training.steps=2", "--dry-run")
    assert f"\nno learning rates are tried: {reason}\n" in planned.err
    (place / "short.yaml").write_text(planned.out, encoding="utf-8")
    table = command("plan", "short.yaml")
    assert re.search(rf"^no trial +of learning rates: {reason}$", table.out, re.MULTILINE), table.out
    command("finetune", "short.yaml", "--run", "short").exits(0, f"no learning rates are tried: {reason}. Chosen: 0.001\n")


def test_a_recipe_with_changes_is_shown_with_them(place: Path) -> None:
    words = ["tiny.yaml", "training.epochs=2", "model.context_length=12"]
    planned = command("pretrain", *words, "--dry-run").exits(0)
    (place / "changed.yaml").write_text(planned.out, encoding="utf-8")
    assert read_recipe("changed.yaml").recipe == read_recipe("tiny.yaml", parse_overrides(words[1:])).recipe
    assert "steps: 12" not in planned.out
    assert planned.out.startswith("# A recipe for tests.\n")
    assert not (place / "runs").exists()


def test_a_growing_batch_reads_as_many_epochs_as_in_the_run(place: Path) -> None:
    words = ["pretrain", "tiny.yaml", *LATER, "training={steps: 6, micro_batch_size: 1, batch_ramp: {start: 1, tokens: 150}}"]
    planned, done = (command(*words, *more).exits(0).err for more in (["--dry-run"], ["--run", "growing"]))
    assert re.findall(r"6 steps of .* ([\d.]+) epochs", planned) == re.findall(r"6 steps of .* ([\d.]+) epochs", done) != []


def test_the_document() -> None:
    planned = command("finetune", *WORDS, *LATER, "training.batch_size=5000", "--dry-run", "--json")
    document = planned.document
    assert document["recipe"]["objective"] == {"kind": "classification"}
    rows = document["first_step"]["rows_an_epoch"]
    assert document["batch_size"] == document["first_step"]["rows"] == rows
    assert f"there are {rows} rows to train on" in planned.err
    assert document["estimate"]["steps"] == document["recipe"]["training"]["epochs"]
    assert len(document["rows"]) == 2
    assert document["baselines"].keys() == {"most_frequent_class", "naive_bayes"}


def test_errors_are_those_of_the_run() -> None:
    for words, code, message in (
        (["pretrain", "tiny.yaml", "--resume"], 2, "leave --resume out"),
        (["pretrain", "tiny.yaml", "data.train=[{path: nowhere.txt}]"], 3, "nowhere.txt"),
        (["pretrain", "tiny.yaml", "training.step=2"], 2, "did you mean steps"),
        (["finetune", "--from", "start", "--data", "nowhere.txt"], 3, "nowhere.txt"),
        (["finetune", "tiny.yaml"], 2, "which checkpoint?"),
    ):
        command(*words, "--dry-run").refuses(code, message)


def test_rows_are_inspected_without_a_recipe() -> None:
    found = command("inspect", "--from", "start", "--data", "rows.jsonl", "--show", "1", "--json").exits(0)
    assert (found.document["objective"], found.document["labels"]) == ("classification", ["cat", "dog"])
    chosen = command("inspect", "--from", "start", "--data", "rows.jsonl", "objective={kind: masked_lm}", "--json").exits(0)
    assert chosen.document["objective"] == "masked_lm"
    command("inspect").exits(2, "Give a RECIPE, or --data F, and --from CKPT to train a checkpoint")


def test_a_sweep_without_a_recipe_decides_once_and_each_trial_is_the_run_that_it_would_be_alone(place: Path) -> None:
    """Also planned, resumed from its folder, refused with other values, and called from Python."""
    rest = ["optimizer.lr=1e-3,1e-2", "optimizer.betas=[[0.9, 0.95], [0.5, 0.6]]", "training.steps=2", *WORDS, *LATER]
    planned = command("sweep", *rest, "--dry-run").exits(0)
    assert not (place / "runs" / "start-rows-sweep").exists()
    assert planned.out.startswith("# classification: a text, and a label")
    assert "\n4 trials of optimizer.lr=0.001,0.01 optimizer.betas=[0.9, 0.95],[0.5, 0.6], of which this is" in planned.err
    document = command("sweep", *rest, "--dry-run", "--json").exits(0).document
    assert (document["planned_trials"], document["recipe"]["optimizer"]["lr"]) == (4, 1e-3)
    swept = command("sweep", *rest).exits(0)
    assert swept.err.count("# classification: a text") == 1, "it is decided once"
    folder = place / "runs" / "start-rows-sweep"
    command("finetune", "optimizer.lr=1e-2", "optimizer.betas=[0.5, 0.6]", "training.steps=2", *WORDS, *LATER, "--run", "one").exits(0)
    assert hashes(folder / "trial-004", 2) == hashes(place / "one", 2)
    assert command("resume", str(folder)).exits(0).out == swept.out
    for changed in (["optimizer.lr=1e-3,3e-2", *rest[1:]], [*rest, "training.seed=9"]):
        command("sweep", *changed, "--resume").exits(2, "different sweep")
    overrides = {"training.steps": 2, "carbon.enabled": False, "training.precision": "fp32", "optimizer.betas": [0.5, 0.6]}
    called = tfkit.sweep(None, {"optimizer.lr": [1e-3, 1e-2]}, overrides, start="start", data="rows.jsonl", run="called", threads=1)
    trials = command("resume", str(folder), "--json").document["trials"]
    assert [one["score"] for one in called.trials] == [one["score"] for one in trials[1::2]]
    command("sweep", "optimizer.lr=1,2").exits(2, "which training?")


def test_rows_are_inspected_although_no_part_of_them_can_be_held_out(place: Path) -> None:
    """As of two rows that land in one part; all are shown, and the warning says what a training would be refused for."""
    numbers, outcomes = iter(range(0, 24, 2)), set()
    while outcomes != {1, 2}:
        number = next(numbers)
        write_rows(place / "two.jsonl", ROWS[number : number + 2])
        done = command("inspect", *WORDS[:2], "--data", "two.jsonl", "--json").exits(0)
        rows = done.document["first_step"]["rows_an_epoch"]
        assert ("here all rows are shown" in done.err) == (rows == 2), done.err
        outcomes.add(rows)
    write_rows(place / "one.jsonl", ROWS[:1])
    command("inspect", *WORDS[:2], "--data", "one.jsonl").exits(3, "one.jsonl: only the label 'cat'")


@pytest.mark.thorough
def test_columns_are_an_argument_of_every_call_that_takes_data(place: Path) -> None:
    """And the library's messages name it so."""
    write_rows(place / "named.jsonl", [{"body": row["text"], "topic": row["label"], "note": "a b c"} for row in ROWS])
    names, overrides = {"text": "body", "label": "topic"}, {"training.steps": 2, "carbon.enabled": False}
    given: dict[str, Any] = {"start": "start", "data": "named.jsonl", "columns": names, "threads": 1}
    done = tfkit.finetune(None, overrides, run="columns", **given)
    assert {"columns": names, "path": "named.jsonl"}.items() <= read_recipe("columns/recipe.yaml").recipe.data.train[0].model_dump().items()
    assert tfkit.plan(None, overrides, **given).steps == 2
    assert len(tfkit.sweep(None, {"optimizer.lr": [1e-3, 1e-2]}, overrides, run="columns-rates", **given).trials) == 2
    scored = tfkit.evaluate(start=str(done.checkpoint), data="named.jsonl", columns=names, threads=1)
    assert scored.examples == len(ROWS)
    rows = [{"body": row["text"]} for row in ROWS]
    predicted = tfkit.load(done.checkpoint).predict(rows, columns={"text": "body"})
    assert predicted == [*tfkit.predict(rows, start=done.checkpoint, columns={"text": "body"}, precision="float32")]
    assert [one["body"] for one in predicted] == [row["body"] for row in rows]
    write_rows(place / "pairs.jsonl", [{"question": row["text"], "sentence": row["text"], "label": row["label"]} for row in ROWS])
    with pytest.raises(UsageError, match=r"columns=\{'text': 'question', 'pair': 'sentence'\} for the"):
        tfkit.finetune(start="start", data="pairs.jsonl")
    with pytest.raises(UsageError, match="give a dict with the column of each role"):
        tfkit.finetune(start="start", data="named.jsonl", columns="text=body")


@pytest.mark.thorough
def test_a_few_rows_for_a_quick_try_wherever_data_are_taken() -> None:
    """Of each part, also on resuming; what a command names itself is not limited by the run's own number."""
    trained = ["--rows", "7", "training.steps=2", *WORDS, *LATER]
    done = command("finetune", *trained, "--run", "few").exits(0, "about 7 rows to train on")
    assert done.err.count("; at most 7 of these rows, drawn by the seed 1\n") == 2
    assert "rows: 7" in command("finetune", *trained, "--dry-run").exits(0).out
    assert command("inspect", "--rows", "7", "--show", "2", *WORDS[:4], "--json").exits(0).document["first_step"]["rows_an_epoch"] == 7
    assert command("plan", "--rows", "7", *WORDS, *LATER).exits(0).err.count("7 of these rows") == 2
    assert command("sweep", "optimizer.lr=1e-3,1e-2", *trained, "--run", "few-rates").exits(0).err.count("7 of these rows") == 4
    for words, rows in (([], 7), (["--data", "rows.jsonl"], 40), (["--data", "rows.jsonl", "--rows", "9"], 9)):
        assert command("evaluate", "--from", "few", *words, "--json").exits(0).document["examples"] == rows
    sections = ["data={train: [{path: rows.jsonl}], validation: [{path: rows.jsonl}]}", "--rows", "5"]  # the section names no rows
    assert command("evaluate", "--from", "few", *sections, "--json").exits(0).document["examples"] == 5
    for name in ("predict", "embed"):
        texts = [line["text"] for line in parse_rows(command(name, "--from", "few", *WORDS[2:], "--rows", "6").exits(0).out)]
        assert texts == [row["text"] for row in ROWS if row["text"] in texts]
        assert len(texts) == 6
    command("predict", "--from", "few", "--data", "-", "--rows", "2").exits(2, "select them before")
