"""tfkit evaluate by likelihood: minimal pairs and choices, of a model that has learned which words go together."""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from answer_runs import Progressed
from tiny_files import read_rows, write_rows
from tiny_runs import evaluate, pretrain, run_tfkit

import tfkit

pytestmark = pytest.mark.usefixtures("in_place")

SUBJECTS = {"cat": "sits", "dog": "sits", "cats": "sit", "dogs": "sit"}
PAIRS = [
    {"sentence_good": f"the {noun} {verb} here", "sentence_bad": f"the {noun} {other} here", "UID": verb}
    for noun, verb in SUBJECTS.items()
    for other in {*SUBJECTS.values()} - {verb}
]
QUESTIONS = [{"context": f"the {noun}", "choices": ["sit", "sits"], "label": verb} for noun, verb in SUBJECTS.items()]
PAIRED = "objective={kind: minimal_pairs}"


@pytest.fixture(scope="module")
def place(base: Path, starts: Path) -> Path:
    """A run that has learned the pattern, one that has not, and an encoder."""
    for start, name in {"gpt": "random", "bert": "encoder"}.items():
        shutil.copytree(starts / start, base / name)
    draws = np.random.default_rng(3)
    texts = [f"the {noun} {SUBJECTS[noun]} here" for noun in draws.choice(list(SUBJECTS), 300)]
    write_rows(base / "texts.jsonl", [{"text": text} for text in texts])
    write_rows(base / "pairs.jsonl", PAIRS)
    write_rows(base / "questions.jsonl", QUESTIONS)
    with contextlib.chdir(base):
        learns = ["data={train: [{path: texts.jsonl}]}", "training.steps=60", "optimizer.lr=1e-2", "evaluation={every: null}"]
        chosen = ["training.steps=3", "data.validation=0.3", "evaluation.metric=perplexity"]
        for name, words in {"learned": learns, "chosen": chosen}.items():
            pretrain(base / name, base / "tiny.yaml", *words).exits(0)
    return base


def test_a_model_that_learned_the_pattern_prefers_the_good_sentence(tmp_path: Path) -> None:
    lines = tmp_path / "said.jsonl"
    words = ["--json", "--predictions", str(lines), "--fail-if", "accuracy.sits < 1"]
    found = evaluate(tmp_path, "--from", "learned", PAIRED, "--data", "pairs.jsonl", *words).exits(0).document
    assert found["metrics"] == {"accuracy": 1.0, "accuracy.sits": 1.0, "accuracy.sit": 1.0}
    assert (found["examples"], found["data"][0]["name"]) == (4, "pairs.jsonl")
    assert found["intervals"]["accuracy"] == [1.0, 1.0]
    said = read_rows(lines)
    assert [one["place"] for one in said] == [f"pairs.jsonl:{n}" for n in (1, 2, 3, 4)]
    assert all(one["good"] > one["bad"] + 1 and one["right"] is True for one in said)
    turned = ["data.validation.0.columns={good: sentence_bad, bad: sentence_good}", "--json"]
    done = evaluate(tmp_path, "--from", "learned", PAIRED, "--data", "pairs.jsonl", *turned)
    assert done.document["metrics"]["accuracy"] == 0.0


def test_gates_hold_for_groups(tmp_path: Path) -> None:
    start = ["--from", "learned", PAIRED, "--data", "pairs.jsonl"]
    evaluate(tmp_path, *start, "--fail-if", "accuracy.sit > 0.9").exits(8)
    done = evaluate(tmp_path, *start, "--fail-if", "accuracy.flies > 0.9")
    assert (done.code, "no metric 'accuracy.flies' here; the metrics are accuracy, accuracy.sits" in done.err) == (2, True), done.err
    evaluate(tmp_path, *start, "--fail-if", "loss > 0.9").exits(2, "the metrics are accuracy")


def test_choices_with_and_without_examples(tmp_path: Path) -> None:
    done = evaluate(tmp_path, "--from", "learned", "objective={kind: few_shot}", "--data", "questions.jsonl", "--json").exits(0)
    metrics = done.document["metrics"]
    assert (metrics["accuracy"], metrics["chance"]) == (1.0, 0.5)
    words = ["objective={kind: few_shot, shots: 1, separator: ' '}", "data={train: [{path: questions.jsonl}], validation: 0.5}", "--json"]
    assert 0 < evaluate(tmp_path, "--from", "learned", *words).exits(0).document["examples"] < 4
    evaluate(
        tmp_path, "--from", "learned", "objective={kind: few_shot, shots: 4}", words[1].replace("0.5", "[{path: questions.jsonl}]")
    ).exits(3, "lower objective.shots")
    done = evaluate(tmp_path, "--from", "learned", "objective={kind: few_shot, shots: 1}", "--data", "questions.jsonl")
    assert done.code == 3, done.err  # texts.jsonl, which the run was trained on, has no questions
    assert "texts.jsonl" in done.err
    assert "the examples of objective.shots are rows of data.train: name such rows there" in done.err


def test_a_checkpoint_from_elsewhere_needs_no_recipe(place: Path, tmp_path: Path) -> None:
    (checkpoint,) = (place / "learned" / "checkpoints").glob("step-*")
    alone = shutil.copytree(checkpoint, tmp_path / "alone")
    done = evaluate(tmp_path, "--from", str(alone), PAIRED, "--data", "pairs.jsonl", "carbon.enabled=false", "--json").exits(0)
    assert done.document["metrics"]["accuracy"] == 1.0


def test_bad_rows_are_left_out_or_end_it(tmp_path: Path) -> None:
    bad = [{"context": "the cat", "choices": ["sits", "sit"], "label": "7"}]
    start = ["--from", "learned", "objective={kind: few_shot}", "--data"]
    done = evaluate(tmp_path, *start, write_rows(tmp_path / "some.jsonl", [*bad, *QUESTIONS]))
    assert (done.code, "some.jsonl:1: the label '7' is none of the 2 answers" in done.err) == (3, True), done.err
    done = evaluate(tmp_path, *start, str(tmp_path / "some.jsonl"), "data.on_bad_row=skip", "--json")
    assert (done.code, done.document["examples"]) == (0, 4)
    assert "1 bad row skipped: 1 label '7'" in done.err
    done = evaluate(tmp_path, *start, write_rows(tmp_path / "all.jsonl", bad), "data.on_bad_row=skip")
    assert (done.code, "all.jsonl: no row could be judged" in done.err) == (3, True), done.err


def test_several_sets_and_a_limit(tmp_path: Path) -> None:
    sets = "data.validation=[{path: pairs.jsonl, name: one}, {path: pairs.jsonl, name: two}]"
    found = evaluate(tmp_path, "--from", "random", PAIRED, sets, "evaluation.max_tokens=null", "--json").document
    assert found["metrics"]["one.accuracy"] == found["metrics"]["two.accuracy"] == found["metrics"]["accuracy"]
    assert found["examples"] == 8
    half = evaluate(tmp_path, "--from", "random", PAIRED, sets, f"evaluation.max_tokens={found['tokens'] // 2}", "--json").document
    assert (half["examples"], len(half["data"])) == (4, 1)


def test_it_trains_nothing_and_needs_a_language_model(place: Path, tmp_path: Path) -> None:
    data = "data={train: [{path: pairs.jsonl}], validation: 0.5}"
    for command in (["pretrain", "tiny.yaml"], ["finetune", "tiny.yaml", "--from", "learned"]):
        words = [*command, PAIRED, data, *(["model={}", "tokenizer={}"] if command[0] == "finetune" else [])]
        done = run_tfkit(tmp_path, [*words, "--run", str(tmp_path / "run")]).exits(2)
        assert "minimal_pairs evaluates a finished model: use it with `tfkit evaluate --from CKPT`" in done.err
        assert not (tmp_path / "run").exists()
    (checkpoint,) = (place / "encoder" / "checkpoints").glob("step-*")
    for encoder, code in (("encoder", 2), (str(shutil.copytree(checkpoint, tmp_path / "alone")), 4)):  # its recipe, or the model
        done = evaluate(tmp_path, "--from", encoder, PAIRED, "--data", "pairs.jsonl", "carbon.enabled=false")
        assert (done.code, "minimal_pairs evaluates decoders; this model has an encoder" in done.err) == (code, True), done.err
    done = evaluate(tmp_path, "--from", "learned", "objective={kind: few_shot, template: '{context}'}", "--data", "questions.jsonl")
    assert (done.code, "{answer} once, at its end" in done.err) == (2, True), done.err


def test_the_settings_of_the_runs_own_objective_are_not_those_of_another(tmp_path: Path) -> None:
    """evaluation.metric chose among the run's checkpoints; minimal pairs have no perplexity."""
    assert (done := evaluate(tmp_path, "--from", "chosen", PAIRED, "--data", "pairs.jsonl", "--json")).code == 0, done.err
    assert 0 <= done.document["metrics"]["accuracy"] <= 1


@pytest.mark.parametrize(("limit", "total"), [(None, len(PAIRS)), (10**6, None)])
def test_the_progress_has_a_total_and_ends_there(limit: int | None, total: int | None) -> None:
    listener = Progressed()
    overrides = {"objective": {"kind": "minimal_pairs"}, "evaluation.max_tokens": limit, "carbon.enabled": False}
    tfkit.evaluate(None, overrides, start="learned", data="pairs.jsonl", threads=1, listener=listener)
    assert listener.bars["judging pairs.jsonl"] == (total, len(PAIRS))
