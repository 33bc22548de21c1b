"""tfkit finetune: a checkpoint trained further, with the head of the task; exact, and refused where it does not fit."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from answer_runs import BERT_WORDS
from tiny_files import read_by, read_json, read_rows, write_rows
from tiny_runs import Done, Process, assert_same_bits, finetune, hashes, kept, pretrain, run_tfkit, strike, write_recipe
from transformers import AutoModelForSequenceClassification

from tfkit.adapters import load as load_any
from tfkit.hub import load
from tfkit.recipe import read_recipe

TASK = """
model: {from: START, dropout: {residual: 0.2}}
data: {train: [{path: labelled.jsonl}], validation: [{path: labelled.jsonl}]}
objective: {kind: classification}
optimizer: {lr: 1e-2}
training: {steps: 6, batch_size: 4, precision: fp32, log_every: 1}
evaluation: {every: 3}
carbon: {enabled: false}
"""


@pytest.fixture
def work(starts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a test's own, with labelled rows and a recipe for them."""
    shutil.copy(starts / "labelled.jsonl", tmp_path)
    (tmp_path / "task.yaml").write_text(f"# For a test.{TASK}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_new_head_on_old_weights_is_trained_resumed_and_opens_in_transformers(starts: Path, work: Path) -> None:
    start = ["--from", str(starts / "bert")]
    finetune("whole", *start).exits(0, "newly initialized: head.pooler.weight, head.pooler.bias, head.classes.weight, head.classes.bias")
    finetune("run", *start, before=strike(signal.SIGTERM, 3)).exits(143)
    assert kept(work / "run") == ["step-000003"]
    finetune("run", *start, "--resume").exits(0)
    assert_same_bits(work / "run", work / "whole", 6)
    loaded, before = load("whole"), load(starts / "bert")
    assert (loaded.labels, loaded.config.dropout.residual) == (("bad", "good"), 0.2)
    assert loaded.codec.fingerprint() == before.codec.fingerprint()
    theirs = read_by(AutoModelForSequenceClassification, loaded.folder)
    assert theirs.config.id2label == {0: "bad", 1: "good"}
    ids = torch.tensor([before.codec.encode_texts(["the cat sat"])[0]])
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits, theirs.eval()(ids).logits, atol=1e-5, rtol=0)
    parent = read_json(loaded.folder / "tfkit.json")["lineage"]["parents"][0]
    saved = read_recipe("whole/recipe.yaml").recipe.model
    assert parent == {"role": "start", "path": str(starts / "bert"), "run_id": parent["run_id"], "sha256": saved.sha256}


def test_at_a_rate_of_nothing_the_weights_are_those_of_the_checkpoint(starts: Path, work: Path) -> None:
    """And what a resolved recipe says is enough to run it again."""
    words = ["optimizer.lr=1e-30", "optimizer.weight_decay=0", "training.steps=1"]
    finetune("run", "--from", str(starts / "bert"), *words).exits(0)
    before, after = load(starts / "bert").model.state_dict(), load("run").model.state_dict()
    shared = {name for name in before if not name.startswith("head.")}
    assert shared == {name for name in after if not name.startswith("head.")}
    for name in shared:
        torch.testing.assert_close(after[name], before[name], atol=0, rtol=0)
    run_tfkit(work, ["finetune", "run/recipe.yaml", "--run", "again", "--threads", "1"]).exits(0)
    assert hashes(work / "again", 1) == hashes(work / "run", 1)


def test_a_task_that_a_checkpoint_knows_keeps_its_head_and_the_order_of_its_classes(starts: Path, work: Path) -> None:
    finetune("first", "--from", str(starts / "bert"), "objective.labels=[good, bad]").exits(0)
    assert "newly initialized" not in finetune("second", "--from", "first").exits(0).err
    assert load("second").labels == ("good", "bad")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("adapter", [[], ["training.adapter={kind: lora, rank: 2}"]])
@pytest.mark.parametrize("labels", [["sports", "politics"], ["good", "bad", "so-so"]])
def test_other_classes_are_learned_anew(starts: Path, work: Path, labels: list[str], adapter: list[str]) -> None:
    """As many others, or more: what has a row for each class is new, the rest of the head stays."""
    finetune("first", "--from", str(starts / "bert"), *adapter).exits(0)
    rows = read_rows(Path("labelled.jsonl"))
    rows = [{**row, "label": labels[number % len(labels)]} for number, row in enumerate(rows)]
    write_rows(Path("labelled.jsonl"), rows)
    done = finetune("second", "--from", "first", "optimizer.lr=1e-30", "optimizer.weight_decay=0", "training.seed=5").exits(0)
    assert "newly initialized: head.classes.weight, head.classes.bias\n" in done.err
    before, after = (load_any(name).model.state_dict() for name in ("first", "second"))
    assert load_any("second").labels == tuple(sorted(labels))
    torch.testing.assert_close(after["head.pooler.weight"], before["head.pooler.weight"], atol=1e-6, rtol=0)
    assert len(after["head.classes.weight"]) == len(labels)
    assert float((after["head.classes.weight"][:2] - before["head.classes.weight"]).abs().max()) > 1e-3
    run_tfkit(work, ["finetune", "second/recipe.yaml", "--run", "again", "--threads", "1"]).exits(0)
    assert hashes(work / "again", 6) == hashes(work / "second", 6)


def test_the_classes_of_a_checkpoint_in_another_order_are_refused(starts: Path, work: Path) -> None:
    finetune("first", "--from", str(starts / "bert")).exits(0)
    finetune("second", "--from", "first", "objective.labels=[good, bad]").exits(2, "name them as it does, bad, good")
    words = ["evaluate", "--from", "first", "--data", "labelled.jsonl", "objective.labels=[good, bad]"]
    run_tfkit(work, words).exits(2, "name them as it does, bad, good")


def test_a_class_that_only_the_held_out_part_has_is_known(starts: Path, work: Path) -> None:
    rows = read_rows(Path("labelled.jsonl"))
    rows = [{"text": row["text"], "label": row["label"] if number % 3 else f"class {number}"} for number, row in enumerate(rows)]
    write_rows(Path("labelled.jsonl"), rows)
    finetune("run", "--from", str(starts / "bert"), "data.validation=0.3").exits(0)
    assert len(load("run").labels) == len({row["label"] for row in rows})


def test_no_entry_of_a_vocabulary_is_taken_away(starts: Path, work: Path) -> None:
    finetune("run", "--from", str(starts / "bert"), "model.vocab_size=50").exits(2, "none can be removed: model.vocab_size is 50")


def test_sizes_to_which_the_weights_do_not_fit_are_named(starts: Path, work: Path) -> None:
    gpt = ["--from", str(starts / "gpt"), "objective={kind: causal_lm}"]
    own = load(starts / "gpt").config
    for name in ("decoder_layers", "dim", "hidden_dim", "num_kv_heads", "num_heads"):
        heads = [f"model.num_heads={4 * own.num_heads}"] if name == "num_kv_heads" else []
        done = finetune("run", *gpt, f"model.{name}={4 * getattr(own, name)}", *heads, f"model.head_dim={own.head_dim}")
        expected = f"has weights for {name} {getattr(own, name)}, and model.{name} is {4 * getattr(own, name)}: remove it"
        assert (done.code, expected in done.err) == (4, True), done.err


def test_an_output_matrix_is_untied_but_never_replaced(starts: Path, work: Path) -> None:
    words = ["objective={kind: causal_lm}", "training.steps=1", "data={train: [{path: labelled.jsonl}]}", "evaluation.every=null"]
    done = finetune("untied", "--from", str(starts / "gpt"), "model.head={tied: false}", *words).exits(0)
    assert "random weights" not in done.err + done.out
    assert not load("untied").config.tied
    done = finetune("tied", "--from", "untied", "model.head={tied: true}", *words)
    assert (done.code, "has an output matrix of its own, and model.head.tied is true: remove it" in done.err) == (2, True), done.err


def test_no_score_is_shown_before_a_run_without_evaluations(starts: Path, work: Path) -> None:
    done = finetune("run", "--from", str(starts / "bert"), "data.validation=null", "training.steps=1", "evaluation.every=null").exits(0)
    assert "newly initialized" in done.err
    assert "\nbefore" not in done.out


@pytest.mark.sampled(2)
@pytest.mark.parametrize("start", ["bert", "gpt"])
def test_a_checkpoint_with_learned_positions_is_tuned_at_a_shorter_length(starts: Path, work: Path, start: str) -> None:
    words = ["--from", str(starts / start), "optimizer.lr=1e-30", "optimizer.weight_decay=0", "training.steps=1", "evaluation.every=null"]
    finetune("short", *words, "model.context_length=9").exits(0)
    before, after = load(starts / start).model, load("short").model
    assert after.config.context_length == 9
    torch.testing.assert_close(after.embedding.positions.weight, before.embedding.positions.weight[:9], atol=0, rtol=0)
    torch.testing.assert_close(after.embedding.tokens.weight, before.embedding.tokens.weight, atol=0, rtol=0)
    done = finetune("long", *words, "model.context_length=17")
    assert (done.code, "16 learned positions, and no more can be added: model.context_length is 17" in done.err) == (2, True), done.err


def test_a_language_model_goes_on_with_other_text(starts: Path, work: Path) -> None:
    words = ["data={train: [{path: labelled.jsonl}], validation: 0.3}", "objective={kind: causal_lm}"]
    finetune("run", "--from", str(starts / "gpt"), *words).exits(0)
    assert load("run").config.head == load(starts / "gpt").config.head


def test_what_the_start_states_of_writing_is_kept(starts: Path, work: Path) -> None:
    [checkpoint] = (starts / "gpt" / "checkpoints").glob("step-*")
    shutil.copytree(checkpoint, work / "start")
    (work / "start" / "manifest.json").unlink()
    path = work / "start" / "generation_config.json"
    stated = read_json(path) | {"bad_words_ids": [[5]], "temperature": 0.6, "a key of tomorrow": 1}
    path.write_text(json.dumps(stated), encoding="utf-8")
    words = ["objective={kind: causal_lm}", "training.steps=2", "model={from: start}", "evaluation.every=null"]
    for number, adapter in enumerate([[], ["training.adapter={rank: 2}"]]):
        finetune(f"tuned{number}", *words, *adapter).exits(0)
        [saved] = (work / f"tuned{number}" / "checkpoints").glob("step-*")
        assert read_json(saved / "generation_config.json") == stated


@pytest.mark.parametrize(
    ("start", "words", "code", "message"),
    [
        ("gpt", ["objective={kind: masked_lm}"], 4, "the objective masked_lm trains encoders; this model has a decoder alone"),
        ("bert", ["model.dropout.residual=2"], 2, "model.dropout.residual: "),
        ("bert", ["model.dim=32"], 4, "has weights for dim 16, and model.dim is 32: remove it"),
        ("bert", ["model.preset=bert-tiny"], 2, "from and preset exclude each other"),
        ("bert", ["model.dimm=32"], 2, "model.dimm: unknown, did you mean dim"),
        ("bert", ["tokenizer.vocab_size=300"], 2, "has its own tokenizer"),
        ("nowhere", [], 4, "nowhere"),
    ],
)
def test_what_does_not_fit_is_refused(starts: Path, work: Path, start: str, words: list[str], code: int, message: str) -> None:
    finetune("run", "--from", str(starts / start), *words).refuses(code, message)


def test_another_checkpoint_under_the_same_path_is_refused(starts: Path, work: Path) -> None:
    shutil.copytree(load(starts / "bert").folder, "start")
    finetune("run", "--from", "start", before=strike(signal.SIGTERM, 3)).exits(143)
    loaded = load("start")
    with torch.no_grad():
        next(loaded.model.parameters()).add_(1)
    shutil.rmtree("start")
    loaded.save("start")
    finetune("run", "--from", "start", "--resume").exits(4, "has changed since this run was started")
    run_tfkit(work, ["finetune", "run/recipe.yaml", "--run", "other", "--threads", "1"]).exits(4, "has changed since this recipe was run")


def test_a_resolved_recipe_from_another_checkpoint(starts: Path, work: Path) -> None:
    """The task and dropout are the recipe's; what it says of its own checkpoint does not hold for one of another size."""
    words = ["training.steps=1", "objective.labels=[good, bad]"]
    finetune("first", "--from", str(starts / "bert"), *words).exits(0)
    recipe = write_recipe(work, starts / "corpus")
    pretrain(work / "wide", recipe, *BERT_WORDS, "model.dim=32", "model.hidden_dim=64").exits(0)

    def again(run: str, *words: str) -> Done:
        return run_tfkit(work, ["finetune", "first/recipe.yaml", "--run", run, "--threads", "1", *words])

    done = again("second", "--from", "wide", "model.dropout.final=0.3").exits(0)
    assert f"first/recipe.yaml: was run from {starts / 'bert'}; of its section model, only dropout is used for wide" in done.err
    saved, loaded = read_recipe("second/recipe.yaml").recipe, load("second")
    assert (saved.model.start, loaded.config.dim, loaded.labels) == ("wide", 32, ("good", "bad"))
    assert (loaded.config.dropout.residual, loaded.config.dropout.final) == (0.2, 0.3)
    assert saved.model.sha256 != read_recipe("first/recipe.yaml").recipe.model.sha256
    again("second", "--from", "wide", "model.dropout.final=0.3", "--resume").exits(0)
    shutil.copytree(load(starts / "bert").folder, "moved")
    done = again("third", "--from", "moved")
    assert (done.code, "only dropout is used" in done.err) == (0, False), "the same weights in another place"
    assert hashes(work / "third", 1) == hashes(work / "first", 1)
    os.mkfifo("pipe")  # as of <(cat first/recipe.yaml): read once
    program = Process(work, ["finetune", "pipe", "--from", "wide", "--run", "fourth", "--threads", "1"])
    Path("pipe").write_bytes(Path("first/recipe.yaml").read_bytes())
    program.wait().exits(0, "only dropout is used")


def test_a_run_without_a_checkpoint_begins_anew_from_any_model(starts: Path, work: Path) -> None:
    finetune("run", "--from", str(starts / "bert"), before=strike(signal.SIGKILL, 2)).exits(-9)
    assert Path("run/recipe.yaml").exists()
    loaded = load(starts / "bert")
    with torch.no_grad():
        next(loaded.model.parameters()).add_(1)
    loaded.save("other")
    finetune("run", "--from", "other").exits(0)


def test_pretraining_takes_no_checkpoint_and_finetuning_needs_one(starts: Path, work: Path) -> None:
    run_tfkit(work, ["pretrain", "task.yaml", "--run", "run"]).exits(2, "`tfkit finetune` starts from a checkpoint")
    finetune("run", "model={preset: bert-tiny}").exits(2, "which checkpoint? Give --from CKPT")
