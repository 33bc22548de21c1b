"""tfkit resume: the last line of a stopped run, and the run folder alone, give the bits of the run that was never stopped."""

import shlex
import shutil
import signal
from pathlib import Path

import pytest
from tiny_files import write_rows
from tiny_runs import WORDS, Done, assert_same_bits, run_tfkit, strike

import tfkit.engine.assembly.training_data
from tfkit.hub import find_checkpoint

pytestmark = pytest.mark.usefixtures("in_place")

TASK = """# For a test.
model: {from: bert, dropout: {residual: 0.2}}
data: {train: [{path: rows.jsonl}], validation: 0.3}
objective: {kind: classification}
training: {batch_size: 4, precision: fp32, steps: 3}
"""
COMMON = ["carbon.enabled=false", "training.steps=6", "training.log_every=2", "--threads", "1", "--json"]
STARTS = {
    "pretrain": ["pretrain", "tiny.yaml", "model.dropout={residual: 0.1}", *COMMON],
    "finetune by a recipe": ["finetune", "task.yaml", *COMMON],
    "finetune without one": ["finetune", "--from", "bert", "--data", "rows.jsonl", *COMMON],
}


@pytest.fixture(scope="module")
def place(base: Path, starts: Path) -> Path:
    """A corpus, a recipe to pretrain, a BERT, labelled rows and a recipe to fine-tune it."""
    shutil.copytree(starts / "bert", base / "bert")
    rows = [{"text": " ".join([WORDS[i % 15], WORDS[i // 15]] * (1 + i % 5)), "label": ["good", "bad"][i % 2]} for i in range(60)]
    write_rows(base / "rows.jsonl", rows)
    (base / "task.yaml").write_text(TASK, encoding="utf-8")
    return base


def last_line(done: Done, said: str = "") -> str:
    return done.exits(143, said).err.splitlines()[-1]


# Long before the first step, as the sources are opened.
STRUCK_AT_ITS_DATA = strike(signal.SIGTERM, 1, tfkit.engine.assembly.training_data, "training_sources").__call__


@pytest.mark.sampled(3)
@pytest.mark.parametrize("start", STARTS)
def test_the_last_line_of_a_stopped_run_gives_the_bits_of_one_that_was_not(place: Path, tmp_path: Path, start: str) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    straight = run_tfkit(place, [*STARTS[start], "--run", str(whole)]).exits(0)
    line = last_line(run_tfkit(place, [*STARTS[start], "--run", str(run)], strike(signal.SIGTERM, 2)))
    assert line == f"tfkit resume {run} --json --threads 1"
    again = last_line(run_tfkit(place, [*shlex.split(line)[1:], "--force"], strike(signal.SIGTERM, 2)))
    assert again == f"tfkit resume {run} --force --json --threads 1"
    done = run_tfkit(place, shlex.split(again)[1:])
    warnings = {line for line in done.err.splitlines() if line.startswith("warning")}
    assert (done.code, "changes" in done.err) == (0, False), done.err
    assert warnings <= {*straight.err.splitlines()}, "of a model that has hardly been trained"
    assert_same_bits(run, whole, 6)
    names = ("steps", "tokens", "loss", "evaluation")
    assert [done.document[name] for name in names] == [straight.document[name] for name in names]
    assert run_tfkit(place, ["resume", str(run), "--json"]).out == done.out  # a finished run repeats its result


def test_names_that_look_like_options_or_changes_are_those_of_files(place: Path) -> None:
    (place / "seed=1.yaml").write_text((place / "tiny.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    run_tfkit(place, ["inspect", "seed=1.yaml"]).exits(0)
    line = last_line(run_tfkit(place, ["pretrain", "seed=1.yaml", "--run", "-runs/one", "--threads", "1"], strike(signal.SIGTERM, 2)))
    assert line == "tfkit resume ./-runs/one --threads 1"
    assert run_tfkit(place, ["runs", "./-runs", "--json"]).document["runs"][0]["resume"] == "tfkit resume ./-runs/one"
    line = last_line(run_tfkit(place, shlex.split(line)[1:], strike(signal.SIGTERM, 2)))
    assert line == "tfkit resume ./-runs/one --threads 1"


def test_before_its_training_a_run_goes_on_by_the_command_that_was_given(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    start = ["pretrain", "tiny.yaml", "training.steps=4", "--run", str(run), "--threads", "1"]
    line = last_line(run_tfkit(place, start, STRUCK_AT_ITS_DATA), "stopped by SIGTERM: no step was taken")
    assert line == f"tfkit pretrain tiny.yaml training.steps=4 --run {run} --resume --threads 1"
    last_line(run_tfkit(place, shlex.split(line)[1:], strike(signal.SIGTERM, 2)))
    longer = ["resume", str(run), "training.steps=5", "--threads", "1"]
    line = last_line(run_tfkit(place, longer, STRUCK_AT_ITS_DATA), "stopped by SIGTERM: no step was taken\n")  # not that there is none
    assert line == f"tfkit resume {run} training.steps=5 --threads 1"  # the run folder does not know of this length yet
    line = last_line(run_tfkit(place, shlex.split(line)[1:], strike(signal.SIGTERM, 2)))
    assert line == f"tfkit resume {run} --threads 1"
    assert run_tfkit(place, [*shlex.split(line)[1:], "--json"]).exits(0).document["steps"] == 5


def test_the_last_line_keeps_that_models_are_read_as_they_are(place: Path, tmp_path: Path) -> None:
    base = shutil.copytree(find_checkpoint("bert"), tmp_path / "bert")
    (base / "generation_config.json").write_text("{}", encoding="utf-8")
    start = ["finetune", "--from", str(base), *STARTS["finetune without one"][3:], "--run", str(tmp_path / "run")]
    run_tfkit(place, start).exits(4, "generation_config.json: ")
    line = last_line(run_tfkit(place, [*start, "--no-verify"], strike(signal.SIGTERM, 2)))
    run_tfkit(place, shlex.split(line)[1:]).exits(0)


def test_what_no_run_can_go_on_with_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "gone"):
        run_tfkit(tmp_path, ["resume", str(folder)]).refuses(2, "there is no run to continue here")
    assert not (tmp_path / "gone").exists()


def test_a_change_to_the_model_that_an_edit_takes_back_is_refused(place: Path, tmp_path: Path) -> None:
    """A field that the edited recipe sets no more has another value, of the checkpoint or the vocabulary, with which the run would take
    other steps.
    """
    recipe, tiny = tmp_path / "edited.yaml", (place / "tiny.yaml").read_text(encoding="utf-8")
    command = ["finetune", str(recipe), "--run", str(tmp_path / "run"), "carbon.enabled=false", "--threads", "1"]
    recipe.write_text(TASK, encoding="utf-8")
    run_tfkit(place, command).exits(0)
    recipe.write_text(TASK.replace("steps: 3", "steps: 5"), encoding="utf-8")
    run_tfkit(place, [*command, "--resume"]).exits(0, "training.steps: 3 in the run, 5 now")
    recipe.write_text(TASK.replace(", dropout: {residual: 0.2}", ""), encoding="utf-8")
    run_tfkit(place, [*command, "--resume"]).refuses(2, "model.dropout.residual: 0.2 in the run, not set now")
    recipe.write_text(TASK.replace("{residual: 0.2}", "0.2"), encoding="utf-8")
    run_tfkit(place, [*command, "--resume"]).refuses(2, "model.dropout: must be a section of fields, not 0.2")
    command = ["pretrain", str(recipe), "--run", str(tmp_path / "other"), "training.steps=2", "--threads", "1"]
    recipe.write_text(tiny.replace("preset: gpt2", "preset: gpt2, vocab_size: 400"), encoding="utf-8")
    run_tfkit(place, command).exits(0)
    recipe.write_text(tiny, encoding="utf-8")
    run_tfkit(place, [*command, "--resume"]).refuses(2, "model.vocab_size: 400 in the run, not set now")
