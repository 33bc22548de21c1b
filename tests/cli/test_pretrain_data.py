"""tfkit pretrain --data: one's own text with its own held-out part, sizes that follow from it, and nothing decided twice."""

import re
import signal
from pathlib import Path
from typing import Any

import pytest
from tiny_files import receipt, write_rows
from tiny_runs import RECIPE, WORDS, Done, assert_same_bits, exact, hashes, kept, pretrain, run_here, run_tfkit, strike

import tfkit.data.sources.stdlib
from tfkit.data.sources.open_sources import training_sources, validation_sources
from tfkit.recipe import read_recipe
from tfkit.recipe.schema.sections import Recipe

OTHER = RECIPE.replace("CORPUS", "another.txt").replace("validation: 0.3", "validation: [{path: held-out-of-another.txt}]")
OTHER = OTHER.replace("steps: 12", "steps: 120")
CHAIN = """
stages:
  first: {model: {preset: gpt2, decoder_layers: 1, dim: 16, num_heads: 2, context_length: 16}, tokenizer: {vocab_size: 300},
          data: {train: [{path: another.txt}]}, training: {steps: 4, batch_size: 4}, carbon: {enabled: false}}
  second: {from: first, data: {train: [{path: text.txt}]}, training: {steps: 2, batch_size: 4}, carbon: {enabled: false}}
"""


def lines(start: int, count: int) -> str:
    """Lines of which no two are the same."""
    return "".join(f"{n} {WORDS[n % 7]} {WORDS[n % 11]} and {n * 7919 % 1009}\n" for n in range(start, start + count))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tiny.yaml").write_text(OTHER, encoding="utf-8")
    (tmp_path / "chain.yaml").write_text(CHAIN, encoding="utf-8")
    (tmp_path / "text.txt").write_text(lines(0, 60), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*words: object, before: Any = None) -> Done:
    return run_tfkit(Path.cwd(), ["pretrain", *words, "--threads", "1"], before)


def decided(*words: object) -> Recipe:
    """Return the recipe that --dry-run prints."""
    Path("saved.yaml").write_text(command(*words, "--dry-run", "carbon.enabled=false").exits(0).out, encoding="utf-8")
    return read_recipe("saved.yaml").recipe


def parts(recipe: Recipe) -> tuple[list[str], list[str]]:
    """Return the texts that are trained on, and those that are held out."""
    roles = recipe.objective.roles
    trained, held_out = training_sources(recipe.data, roles), validation_sources(recipe.data, roles)
    return [row.text for source in trained for row in source.rows()], [row.text for source in held_out for row in source.rows()]


@pytest.mark.parametrize("validation", ["0.3", "[{path: held-out.txt}]", "null", "[]"])
def test_the_held_out_part_may_be_written_in_every_form_that_a_recipe_knows(place: Path, validation: str) -> None:
    Path("held-out.txt").write_text(lines(60, 20), encoding="utf-8")
    words = ["--data", "text.txt", f"data.validation={validation}", "evaluation={}", "--dry-run", "carbon.enabled=false"]
    err = command("tiny.yaml", *words).exits(0).err
    assert ("held out," in err, "30% of the text is held out" in err) == (validation == "0.3",) * 2


def test_a_recipe_is_trained_and_judged_on_the_text_that_is_named(place: Path) -> None:
    done = command("tiny.yaml", "--data", "text.txt", "--run", "whole", "evaluation.every=4")
    done.exits(0, "10% of the text is held out", "training.steps=")
    saved = read_recipe("whole/recipe.yaml").recipe
    assert ([source.path for source in saved.data.train], saved.data.validation, saved.evaluation.every) == (["text.txt"], 0.1, 4)
    assert receipt("whole")["given"]["overrides"]["training.steps"] == saved.training.steps < 120


@pytest.mark.thorough
def test_a_resumed_run_keeps_what_was_decided_and_ends_with_the_same_bits(place: Path) -> None:
    words = ["tiny.yaml", "--data", "text.txt", "tokenizer.vocab_size=300"]
    command(*words, "--run", "whole").exits(0)
    steps = read_recipe("whole/recipe.yaml").recipe.training.steps
    command(*words, "--run", "run", before=strike(signal.SIGTERM, steps // 2)).exits(143, "tfkit resume run")
    before = read_recipe("run/recipe.yaml").recipe
    Path("text.txt.json").write_text("[]", encoding="utf-8")  # what lies beside the text changes nothing
    command(*words, "--run", "run", "--resume").exits(0)
    assert read_recipe("run/recipe.yaml").recipe == before
    assert_same_bits(place / "run", place / "whole", steps)


@pytest.mark.thorough
def test_a_length_that_is_named_later_replaces_the_decided_one(place: Path) -> None:
    words = ["tiny.yaml", "--data", "text.txt", "--run", "run", "schedule.kind=constant"]
    command(*words, before=strike(signal.SIGTERM, 8)).exits(143)
    command(*words, "--resume", "training.steps=120").exits(0)  # that of tiny.yaml itself
    assert kept(place / "run")[-1] == "step-000120"


def test_without_a_recipe_a_small_decoder_is_decided_and_runs_as_it_was_saved(place: Path) -> None:
    tiny = ["model.dim=16", "model.decoder_layers=1", "carbon.enabled=false"]
    shown = decided("--data", "text.txt", *tiny)
    assert (shown.model.changes["dim"], shown.data.validation, shown.tokenizer.vocab_size) == (16, 0.1, 1024)
    command("--data", "text.txt", *tiny, "training.steps=2", "--run", "run").exits(0, "# A small decoder from random weights, for text.")
    command("saved.yaml", "training.steps=2", "--run", "again").exits(0)
    assert hashes(place / "run", 2) == hashes(place / "again", 2)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("words", [["tiny.yaml"], []])
def test_inspect_and_plan_read_the_same_rows_with_the_same_sizes(place: Path, words: list[str]) -> None:
    recipe = decided(*words, "--data", "text.txt")
    planned = run_here(["plan", *words, "--data", "text.txt", "--json", "carbon.enabled=false"]).document
    seen = run_here(["inspect", *words, "--data", "text.txt", "--json"]).document
    assert (planned["steps"], seen["first_step"]["rows"]) == (recipe.training.steps, recipe.training.batch_size)


def test_more_minutes_are_more_steps_and_intervals_keep_their_place(place: Path) -> None:
    short, long = (decided("tiny.yaml", "--data", "text.txt", "--minutes", minutes) for minutes in (0.2, 20))
    (steps, every), (more_steps, later) = ((one.training.steps, one.evaluation.every) for one in (short, long))
    assert (steps < more_steps, type(every), type(later)) == (True, int, int)
    assert later / more_steps == pytest.approx(every / steps, rel=0.3)
    assert decided("tiny.yaml", "--data", "text.txt", "--minutes", 20, "evaluation.every=7").evaluation.every == 7
    done = command("tiny.yaml", "--data", "text.txt", "--minutes", 0.01, "--run", "run")
    done.exits(0, "# training.steps follows from the time of a few steps, for 0.01 minutes\n")
    steps = read_recipe("run/recipe.yaml").recipe.training.steps
    command("tiny.yaml", "--data", "text.txt", "--minutes", 5, "--run", "run", "--resume").exits(0)
    assert read_recipe("run/recipe.yaml").recipe.training.steps == steps


def test_tokens_are_the_length_of_the_first_stage(place: Path) -> None:
    assert decided("tiny.yaml", "--data", "text.txt", "--tokens", 640).training.tokens == 640
    other = "second.training.tokens=64"
    command("chain.yaml", "--data", "text.txt", "--tokens", 128, other, "--run", "run").exits(0)
    assert read_recipe("run/second/recipe.yaml").recipe.training.tokens == 64
    first = read_recipe("run/first/recipe.yaml").recipe
    assert ([source.path for source in first.data.train], first.data.validation) == (["text.txt"], 0.1)
    assert (first.training.tokens, first.tokenizer.vocab_size) == (128, 300)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "what is trained? Give a RECIPE"),
        (["tiny.yaml", "--tokens", "9", "--minutes", "1"], "--tokens and --minutes: two lengths"),
        (["tiny.yaml", "--tokens", "9", "training.steps=3"], "--tokens and training.steps: two lengths"),
        (["chain.yaml", "--tokens", "9", "first.training.epochs=3"], "--tokens and first.training.epochs: two lengths"),
        (["chain.yaml", "--minutes", "1"], "give first.training.steps or --tokens"),
    ],
)
def test_what_does_not_say_one_training_is_refused(place: Path, words: list[str], message: str) -> None:
    command(*words).exits(2, message)


def test_missing_columns_of_labelled_rows_are_named(place: Path) -> None:
    model = "model={preset: t5-small, encoder_layers: 1, decoder_layers: 1, dim: 16, num_heads: 2, context_length: 16}"
    words = [model, "objective.kind=text_to_text", "tokenizer={kind: unigram, vocab_size: 300}"]
    done = command("tiny.yaml", "--data", "text.txt", *words).exits(3)
    assert re.search(r"no column 'target'.*columns found: text", done.err), done.err


def test_a_column_of_text_is_named(place: Path) -> None:
    write_rows(place / "rows.jsonl", [{"id": f"id {number}", "body": line} for number, line in enumerate(lines(0, 60).splitlines())])
    trained, held_out = parts(decided("tiny.yaml", "--data", "rows.jsonl", "--columns", "text=body"))
    assert sorted(trained + held_out) == sorted(lines(0, 60).splitlines())


@pytest.mark.parametrize("form", ["file", "folder", "split", "glob", "jsonl"])
def test_what_is_held_out_is_never_trained_on(place: Path, form: str) -> None:
    folder = place / "own"
    folder.mkdir()
    names = {"split": ["train.txt", "valid.txt", "test.txt"], "file": ["one.txt"]}.get(form, [f"{number}.txt" for number in range(12)])
    for number, name in enumerate(names):
        (folder / name).write_text(lines(1000 * number, 40), encoding="utf-8")
    if form == "jsonl":
        rows = [{"text": line} for number in range(12) for line in lines(1000 * number, 9).splitlines()]
        write_rows(folder / "rows.jsonl", rows * 2)  # each row twice
    data = {"file": "own/one.txt", "glob": "own/*.txt", "jsonl": "own/rows.jsonl"}.get(form, "own")
    trained, held_out = parts(decided("tiny.yaml", "--data", data))
    assert min(len(trained), len(held_out)) > 0
    of_training, of_others = ({line for text in texts for line in text.splitlines()[1:-1] or [text]} for texts in (trained, held_out))
    assert not of_training & of_others
    whole = {line for path in folder.iterdir() for line in path.read_text(encoding="utf-8").splitlines()}
    if form == "split":
        assert sorted(held_out) == [(folder / "valid.txt").read_text(encoding="utf-8")]
        assert not any(line.startswith("2000 ") for line in of_training | of_others)
    elif form != "jsonl":
        assert len(whole - of_training - of_others) <= 4 * len(names)  # first and last lines, which a cut may divide


# -- tasks of the standard library, on two of its packages: an objective each, without a file or a network

ENCODER = "model={preset: bert-base, encoder_layers: 1, dim: 16, hidden_dim: 16, num_heads: 2, context_length: 32}"
BOTH = "model={preset: t5-small, encoder_layers: 1, decoder_layers: 1, dim: 16, hidden_dim: 16, num_heads: 2, context_length: 64}"
RUNS = {  # the task: the model, the tokenizer's kind, the objective, and what the validation reports besides its loss
    "docstrings": (BOTH, "unigram", "text_to_text", "token_accuracy"),
    "token_roles": (ENCODER, "wordpiece", "tagging", "accuracy"),
    "packages": (ENCODER, "wordpiece", "classification", "accuracy"),
}


def few_files() -> None:
    """The rest only takes time."""
    tfkit.data.sources.stdlib._is_source = lambda path, root: path.match("email/[b-i]*.py") or path.match("asyncio/[c-r]*.py")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("task", RUNS)
def test_a_task_is_trained_and_scored_on_files_of_its_own(recipe: Path, task: str) -> None:
    model, kind, objective, metric = RUNS[task]
    words = [model, f"tokenizer={{kind: {kind}, vocab_size: 600}}", f"objective={{kind: {objective}}}", "evaluation={max_tokens: 500}"]
    words += ["training.steps=2", f"data={{train: [{{stdlib: {task}}}], validation: [{{stdlib: {task}}}]}}", "schedule={warmup_steps: 0}"]
    done = pretrain(Path("run"), recipe, *words, before=few_files)
    done.exits(0, f"{task} of the standard library of Python", "(the training part)")
    assert "(held out)" in done.err
    assert "held-out rows are among those" not in done.err
    assert metric in next(record["evaluation"] for record in exact(Path("run")) if "evaluation" in record)
    document = run_tfkit(Path(), ["inspect", str(recipe), *words, "--show", "1", "--json"], few_files).exits(0).document
    assert re.fullmatch(r"(email|asyncio)/[^:]*:[1-9]\d*", document["rows"][0]["place"])
    labels = {"docstrings": [], "packages": ["asyncio", "email"]}.get(task)
    assert document["labels"] == labels if labels is not None else {"call", "parameter", "function"} <= set(document["labels"])
