"""No output of a command takes the place of what it reads, or comes to lie in it: refused with 2, and nothing has changed."""

import json
import os
import shutil
from pathlib import Path

import pytest
from tiny_runs import Done, pretrain, run_tfkit, write_corpus, write_recipe


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, a recipe, rows, and a run with two checkpoints."""
    folder = tmp_path_factory.mktemp("outputs")
    recipe = write_recipe(folder, write_corpus(folder / "corpus"))
    (folder / "mine.jsonl").write_text("".join(json.dumps({"text": f"the cat sat on {i}"}) + "\n" for i in range(4)), encoding="utf-8")
    done = pretrain(folder / "run", recipe, "training.steps=2", "checkpoint.every=1", "evaluation.every=null")
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def work(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "work"
    shutil.copytree(base, place)
    recipe = place / "tiny.yaml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace(str(base), str(place)), encoding="utf-8")
    os.link(place / "mine.jsonl", place / "hard.jsonl")
    (place / "soft.jsonl").symlink_to("mine.jsonl")
    (place / "folder-link").symlink_to("corpus")
    monkeypatch.chdir(place)
    return place


def assert_refused(work: Path, *words: str) -> None:
    before = {path: path.lstat().st_mtime_ns for path in sorted(work.rglob("*"))}
    contents = {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
    done: Done = run_tfkit(work.parent, list(words))
    assert (done.code, done.out) == (2, ""), done.err
    assert "this command reads" in done.err, done.err
    assert {path: path.lstat().st_mtime_ns for path in sorted(work.rglob("*"))} == before
    assert {path: path.read_bytes() for path in contents} == contents


@pytest.mark.parametrize(
    ("data", "predictions"),
    [
        ("mine.jsonl", "mine.jsonl"),
        ("mine.jsonl", "./corpus/../mine.jsonl"),
        ("mine.jsonl", "soft.jsonl"),
        ("mine.jsonl", "hard.jsonl"),
        ("soft.jsonl", "mine.jsonl"),
        ("mi*.jsonl", "mine.jsonl"),
        ("mi*.jsonl", "mine-too.jsonl"),
        ("**/*.jsonl", "corpus/new.jsonl"),
        ("corpus", "corpus/0.txt"),
        ("corpus", "folder-link/new.txt"),
        ("mine.jsonl", "run/recipe.yaml"),
        ("mine.jsonl", "run/checkpoints/step-000001/model.safetensors"),
        ("mine.jsonl", "run/checkpoints/step-000002/config.json"),
    ],
)
def test_predictions_replace_nothing_that_is_read(work: Path, data: str, predictions: str) -> None:
    words = ["--from", "run", "--data", data, "carbon.enabled=false", "--threads", "1"]
    assert_refused(work, "evaluate", *words, "--predictions", predictions)


def test_predictions_in_a_source_of_the_recipe_or_in_the_recipe_itself(work: Path) -> None:
    for predictions in ("corpus/3.txt", "tiny.yaml"):
        assert_refused(work, "evaluate", "tiny.yaml", "--from", "run", "--predictions", predictions, "--threads", "1")


@pytest.mark.parametrize(
    "folder", ["corpus", "corpus/run", "folder-link/run", "run/checkpoints/step-000002", "run/checkpoints/step-000002/x"]
)
def test_a_run_folder_lies_in_no_data_and_no_checkpoint(work: Path, folder: str) -> None:
    if not folder.startswith("run/"):
        assert_refused(work, "pretrain", "tiny.yaml", "--run", folder, "--threads", "1")
    words = ["--run", folder, "--threads", "1", "carbon.enabled=false"]
    assert_refused(work, "finetune", "--from", "run", "--data", "corpus", "training.steps=1", *words)
    assert_refused(work, "evaluate", "--from", "run", "--data", "corpus", *words)
    if folder.startswith("run/"):
        assert_refused(work, "generate", "--from", "run", "--prompt", "the", *words)


@pytest.mark.parametrize(
    ("source", "folder"), [("**/*.md", "new"), ("new/metrics.jsonl", "new"), ("n*/*.jsonl", "new"), ("mine.jsonl", "mine.jsonl")]
)
def test_what_a_run_writes_is_not_read_as_its_data(work: Path, source: str, folder: str) -> None:
    assert_refused(work, "pretrain", "tiny.yaml", f"data.train=[{{path: '{source}'}}]", "--run", folder, "--threads", "1")


def test_prompts_and_averages(work: Path) -> None:
    (work / "prompts.txt").write_text("the\n", encoding="utf-8")
    words = ["--from", "run", "--threads", "1", "carbon.enabled=false"]
    assert_refused(work, "generate", *words, "--input", "prompts.txt", "--run", "prompts.txt")
    for out in ("run/checkpoints/mean", "run/checkpoints/step-000001/mean"):
        assert_refused(work, "average", "run", "--last", "2", "--out", out)


def test_what_lies_beside_is_allowed(work: Path) -> None:
    words = ["--from", "run", "--data", "mine.jsonl", "carbon.enabled=false", "--threads", "1"]
    for predictions in ("other.jsonl", "run/checkpoints/step-000002/mine.jsonl"):
        done = run_tfkit(work.parent, ["evaluate", *words, "--predictions", predictions])
        assert done.code == 0, done.err
        assert len(Path(predictions).read_text(encoding="utf-8").splitlines()) == 4
    done = run_tfkit(work.parent, ["pretrain", "run/recipe.yaml", "--run", "run", "--resume", "training.steps=3", "--threads", "1"])
    assert done.code == 0, done.err
