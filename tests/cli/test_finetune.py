"""tfkit finetune: a checkpoint trained further, with the head of the task; exact, and refused where it does not fit."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from answer_runs import BERT_WORDS
from tiny_files import read_by, read_json, read_rows, write_rows
from tiny_layouts import GPT2_LAYOUT
from tiny_runs import Done, Process, assert_same_bits, finetune, hashes, kept, pretrain, records, run_tfkit, strike
from transformers import AutoModelForSequenceClassification, AutoTokenizer, OpenAIGPTDoubleHeadsModel

from tfkit.adapters import load as load_any
from tfkit.hub import load
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import build, with_more_entries
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
UNCHANGED = ["optimizer.lr=1e-30", "optimizer.weight_decay=0"]  # the weights stay as they are


def test_a_new_head_on_old_weights_is_trained_resumed_and_opens_in_transformers(work: Path) -> None:
    start = ["--from", "bert"]
    finetune("whole", *start).exits(0, "newly initialized: head.pooler.weight, head.pooler.bias, head.classes.weight, head.classes.bias")
    finetune("run", *start, before=strike(signal.SIGTERM, 3)).exits(143)
    assert kept(work / "run") == ["step-000003"]
    finetune("run", *start, "--resume").exits(0)
    assert_same_bits(work / "run", work / "whole", 6)
    loaded, before = load("whole"), load("bert")
    assert (loaded.labels, loaded.config.dropout.residual) == (("bad", "good"), 0.2)
    assert loaded.codec.fingerprint() == before.codec.fingerprint()
    theirs = read_by(AutoModelForSequenceClassification, loaded.folder)
    assert theirs.config.id2label == {0: "bad", 1: "good"}
    ids = torch.tensor([before.codec.encode_texts(["the cat sat"])[0]])
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits, theirs.eval()(ids).logits, atol=1e-5, rtol=0)
    parent = read_json(loaded.folder / "tfkit.json")["lineage"]["parents"][0]
    saved = read_recipe("whole/recipe.yaml").recipe.model
    assert parent == {"role": "start", "path": "bert", "run_id": parent["run_id"], "sha256": saved.sha256}


def test_at_a_rate_of_nothing_the_weights_are_those_of_the_checkpoint(work: Path) -> None:
    """And what a resolved recipe says is enough to run it again."""
    finetune("run", "--from", "bert", *UNCHANGED, "training.steps=1").exits(0)
    before, after = load("bert").model.state_dict(), load("run").model.state_dict()
    shared = {name for name in before if not name.startswith("head.")}
    assert shared == {name for name in after if not name.startswith("head.")}
    for name in shared:
        torch.testing.assert_close(after[name], before[name], atol=0, rtol=0)
    run_tfkit(work, ["finetune", "run/recipe.yaml", "--run", "again", "--threads", "1"]).exits(0)
    assert hashes(work / "again", 1) == hashes(work / "run", 1)


def test_a_task_that_a_checkpoint_knows_keeps_its_head_and_the_order_of_its_classes(work: Path) -> None:
    finetune("first", "--from", "bert", "objective.labels=[good, bad]").exits(0)
    assert "newly initialized" not in finetune("second", "--from", "first").exits(0).err
    assert load("second").labels == ("good", "bad")
    other_order, said = "objective.labels=[bad, good]", "name them as it does, good, bad"
    finetune("third", "--from", "first", other_order).exits(2, said)
    run_tfkit(work, ["evaluate", "--from", "first", "--data", "labelled.jsonl", other_order]).exits(2, said)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("adapter", [[], ["training.adapter={kind: lora, rank: 2}"]])
@pytest.mark.parametrize("labels", [["sports", "politics"], ["good", "bad", "so-so"]])
def test_other_classes_are_learned_anew(work: Path, labels: list[str], adapter: list[str]) -> None:
    """As many others, or more: what has a row for each class is new, the rest of the head stays."""
    finetune("first", "--from", "bert", *adapter).exits(0)
    rows = enumerate(read_rows(Path("labelled.jsonl")))
    write_rows(Path("labelled.jsonl"), [{**row, "label": labels[number % len(labels)]} for number, row in rows])
    done = finetune("second", "--from", "first", *UNCHANGED, "training.seed=5")
    done.exits(0, "newly initialized: head.classes.weight, head.classes.bias\n")
    before, after = (load_any(name).model.state_dict() for name in ("first", "second"))
    assert load_any("second").labels == tuple(sorted(labels))
    torch.testing.assert_close(after["head.pooler.weight"], before["head.pooler.weight"], atol=1e-6, rtol=0)
    assert len(after["head.classes.weight"]) == len(labels)
    assert float((after["head.classes.weight"][:2] - before["head.classes.weight"]).abs().max()) > 1e-3
    run_tfkit(work, ["finetune", "second/recipe.yaml", "--run", "again", "--threads", "1"]).exits(0)
    assert hashes(work / "again", 6) == hashes(work / "second", 6)


def test_a_class_that_only_the_held_out_part_has_is_known(work: Path) -> None:
    rows = enumerate(read_rows(Path("labelled.jsonl")))
    rows = [{**row, "label": row["label"] if number % 3 else f"class {number}"} for number, row in rows]
    write_rows(Path("labelled.jsonl"), rows)
    finetune("run", "--from", "bert", "data.validation=0.3").exits(0)
    assert len(load("run").labels) == len({row["label"] for row in rows})


def test_sizes_to_which_the_weights_do_not_fit_are_named(work: Path) -> None:
    gpt = ["--from", "gpt", "objective={kind: causal_lm}"]
    own = load("gpt").config
    for name in ("decoder_layers", "dim", "hidden_dim", "num_kv_heads", "num_heads"):
        heads = [f"model.num_heads={4 * own.num_heads}"] if name == "num_kv_heads" else []
        done = finetune("run", *gpt, f"model.{name}={4 * getattr(own, name)}", *heads, f"model.head_dim={own.head_dim}")
        done.exits(4, f"has weights for {name} {getattr(own, name)}, and model.{name} is {4 * getattr(own, name)}: remove it")


def test_an_output_matrix_is_untied_but_never_replaced(work: Path) -> None:
    words = ["objective={kind: causal_lm}", "training.steps=1", "data={train: [{path: labelled.jsonl}]}", "evaluation.every=null"]
    done = finetune("untied", "--from", "gpt", "model.head={tied: false}", *words).exits(0)
    assert "random weights" not in done.err + done.out
    assert not load("untied").config.tied
    done = finetune("tied", "--from", "untied", "model.head={tied: true}", *words)
    done.exits(2, "has an output matrix of its own, and model.head.tied is true: remove it")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("start", ["bert", "gpt"])
def test_a_checkpoint_with_learned_positions_is_tuned_at_a_shorter_length(work: Path, start: str) -> None:
    words = ["--from", start, *UNCHANGED, "training.steps=1", "evaluation.every=null"]
    finetune("short", *words, "model.context_length=9").exits(0)
    before, after = load(start).model, load("short").model
    assert after.config.context_length == 9
    torch.testing.assert_close(after.embedding.positions.weight, before.embedding.positions.weight[:9], atol=0, rtol=0)
    torch.testing.assert_close(after.embedding.tokens.weight, before.embedding.tokens.weight, atol=0, rtol=0)
    more = "16 learned positions, and no more can be added: model.context_length is 17"
    finetune("long", *words, "model.context_length=17").exits(2, more)


def test_a_language_model_goes_on_with_other_text_and_keeps_what_it_states_of_writing(work: Path) -> None:
    shutil.copytree(load("gpt").folder, "start", ignore=shutil.ignore_patterns("manifest.json"))
    path = work / "start" / "generation_config.json"
    stated = read_json(path) | {"bad_words_ids": [[5]], "temperature": 0.6, "a key of tomorrow": 1}
    path.write_text(json.dumps(stated), encoding="utf-8")
    words = ["objective={kind: causal_lm}", "training.steps=2", "model={from: start}", "data.validation=0.3"]
    for run, adapter in (("tuned", []), ("adapted", ["training.adapter={rank: 2}"])):
        finetune(run, *words, *adapter).exits(0)
        assert load_any(run).config.head == load("gpt").config.head
        assert read_json(work / run / "checkpoints/step-000002/generation_config.json") == stated


def test_what_does_not_fit_is_refused(work: Path) -> None:
    for start, words, code, message in (
        ("gpt", ["objective={kind: masked_lm}"], 4, "the objective masked_lm trains encoders; this model has a decoder alone"),
        ("bert", ["model.dropout.residual=2"], 2, "model.dropout.residual: "),
        ("bert", ["model.vocab_size=50"], 2, "none can be removed: model.vocab_size is 50"),
        ("bert", ["model.preset=bert-tiny"], 2, "from and preset exclude each other"),
        ("bert", ["model.dimm=32"], 2, "model.dimm: unknown, did you mean dim"),
        ("bert", ["tokenizer.vocab_size=300"], 2, "has its own tokenizer"),
        ("nowhere", [], 4, "nowhere"),
    ):
        finetune("run", "--from", start, *words).refuses(code, message)


def save_another(folder: str) -> None:
    """Save a model of the same sizes with other weights in this folder."""
    loaded = load("bert")
    with torch.no_grad():
        next(loaded.model.parameters()).add_(1)
    shutil.rmtree(folder, ignore_errors=True)
    loaded.save(folder)


def test_another_checkpoint_under_the_same_path_is_refused(work: Path) -> None:
    shutil.copytree(load("bert").folder, "start")
    finetune("run", "--from", "start", before=strike(signal.SIGTERM, 3)).exits(143)
    save_another("start")
    finetune("run", "--from", "start", "--resume").exits(4, "has changed since this run was started")
    run_tfkit(work, ["finetune", "run/recipe.yaml", "--run", "other", "--threads", "1"]).exits(4, "has changed since this recipe was run")


def test_a_resolved_recipe_from_another_checkpoint(work: Path) -> None:
    """The task and dropout are the recipe's; what it says of its own checkpoint does not hold for one of another size."""
    finetune("first", "--from", "bert", "training.steps=1", "objective.labels=[good, bad]").exits(0)
    pretrain(work / "wide", work / "tiny.yaml", *BERT_WORDS, "model.dim=32", "model.hidden_dim=64").exits(0)

    def again(run: str, *words: str) -> Done:
        return run_tfkit(work, ["finetune", "first/recipe.yaml", "--run", run, "--threads", "1", *words])

    reread = "first/recipe.yaml: was run from bert; of its section model, only dropout is used for wide"
    again("second", "--from", "wide", "model.dropout.final=0.3").exits(0, reread)
    saved, loaded = read_recipe("second/recipe.yaml").recipe, load("second")
    assert (saved.model.start, loaded.config.dim, loaded.labels) == ("wide", 32, ("good", "bad"))
    assert (loaded.config.dropout.residual, loaded.config.dropout.final) == (0.2, 0.3)
    assert saved.model.sha256 != read_recipe("first/recipe.yaml").recipe.model.sha256
    again("second", "--from", "wide", "model.dropout.final=0.3", "--resume").exits(0)
    shutil.copytree(load("bert").folder, "moved")
    assert "only dropout is used" not in again("third", "--from", "moved").exits(0).err, "the same weights in another place"
    assert hashes(work / "third", 1) == hashes(work / "first", 1)
    os.mkfifo("pipe")  # as of <(cat first/recipe.yaml): read once
    program = Process(work, ["finetune", "pipe", "--from", "wide", "--run", "fourth", "--threads", "1"])
    Path("pipe").write_bytes(Path("first/recipe.yaml").read_bytes())
    program.wait().exits(0, "only dropout is used")


def test_a_run_without_a_checkpoint_begins_anew_from_any_model(work: Path) -> None:
    finetune("run", "--from", "bert", before=strike(signal.SIGKILL, 2)).exits(-9)
    assert Path("run/recipe.yaml").exists()
    save_another("other")
    finetune("run", "--from", "other").exits(0)


def test_pretraining_takes_no_checkpoint_and_finetuning_needs_one(work: Path) -> None:
    run_tfkit(work, ["pretrain", "task.yaml", "--run", "run"]).exits(2, "`tfkit finetune` starts from a checkpoint")
    finetune("run", "model={preset: bert-tiny}").exits(2, "which checkpoint? Give --from CKPT")


# -- multiple choice: a GPT that was pretrained on text gets a score of choices, and entries for three new tokens


MARKS = ["_start_", "_delimiter_", "_classify_"]
OF_CHOICES = """
# For a test.
model: {from: gpt, dropout: {embedding: 0, attention: 0, residual: 0}}
data: {train: [{path: rows.jsonl, columns: {choices: [first, second]}}], validation: 0.2}
objective: {kind: multiple_choice}
optimizer: {lr: 1e-2}
training: {steps: 4, batch_size: 8, precision: fp32, log_every: 2}
carbon: {enabled: false}
"""


@pytest.fixture(scope="module")
def place(base: Path) -> Path:
    """A tiny GPT of ours, rows with two answers each, and a recipe for them."""
    gpt = ["model={preset: gpt, decoder_layers: 2, dim: 16, num_heads: 2, context_length: 32}", "tokenizer={kind: bpe_eow, vocab_size: 90}"]
    pretrain(base / "gpt", base / "tiny.yaml", *gpt, "training.steps=2", "evaluation.every=null").exits(0)
    random, rows = np.random.default_rng(3), []
    for number in range(40):
        goal, first, second = (" ".join(random.choice(["the", "cat", "dog", "sat"], int(random.integers(1, 6)))) for _ in range(3))
        rows.append({"goal": goal, "first": first, "second": second, "label": number % 2})
    write_rows(base / "rows.jsonl", rows)
    (base / "task.yaml").write_text(OF_CHOICES, encoding="utf-8")
    return base


def test_three_entries_are_added_and_the_others_stay(place: Path, in_place: None) -> None:
    new = "newly initialized: head.choice.weight, head.choice.bias, the last 3 entries of the vocabulary"
    finetune("run", "optimizer.lr=1e-30", "optimizer.weight_decay=0").exits(0, new)
    run_tfkit(place, ["finetune", "run/recipe.yaml", "--run", "again", "--threads", "1"]).exits(0)
    assert hashes(place / "again", 4) == hashes(place / "run", 4)
    before, after = load(place / "gpt"), load(place / "run")
    size = before.config.vocab_size
    grown = {"vocab_size": size + 3, "head": after.config.head, "dropout": after.config.dropout}
    assert after.config == before.config.model_copy(update=grown)
    assert [after.codec.backend.token_to_id(token) for token in MARKS] == [size, size + 1, size + 2]
    for name, tensor in before.model.state_dict().items():
        torch.testing.assert_close(after.model.state_dict()[name][: len(tensor)], tensor, atol=1e-20, rtol=0, msg=name)
    assert float(after.model.state_dict()["embedding.tokens.weight"][size:].std()) > 0.01
    text = ["the cat sat on Straße"]
    assert after.codec.encode_texts(text) == before.codec.encode_texts(text)
    theirs = AutoTokenizer.from_pretrained(after.folder)
    assert theirs(text)["input_ids"] == after.codec.encode_texts(text)
    assert theirs.convert_tokens_to_ids(MARKS) == [size, size + 1, size + 2]
    ids = torch.tensor([[size, *after.codec.encode_texts(text)[0], size + 2]])
    with torch.no_grad():
        found = OpenAIGPTDoubleHeadsModel.from_pretrained(after.folder).eval()(ids)
        output = after.model(ids)
    torch.testing.assert_close(output.logits, found.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.extra_logits[0], found.mc_logits.reshape(1), atol=1e-5, rtol=0)


@pytest.mark.thorough
def test_the_scores_of_such_a_run_and_its_end(in_place: None) -> None:
    finetune("scored", "objective.start=null").exits(0, "the last 2 entries of the vocabulary")
    (scores,) = [record["evaluation"] for record in records(Path("scored")) if "evaluation" in record]
    assert scores["loss"] == pytest.approx(scores["choices"] + 0.5 * scores["lm"])
    assert "newly initialized" not in finetune("on", "--from", "scored", "objective.start=null").exits(0).err


@pytest.mark.parametrize("tied", [True, False])
def test_old_entries_have_the_same_logits_in_a_larger_vocabulary(tied: bool) -> None:
    sizes = {"vocab_size": 31, "context_length": 8, "decoder_layers": 2, "dim": 12, "num_heads": 2}
    config = ModelConfig.model_validate(GPT2_LAYOUT | sizes | {"init": {"std": 0.3}, "head": {"tied": tied, "bias": True}})
    small = build(config, seed=1).eval()
    large = with_more_entries(small, 36, seed=2)
    assert large.config.vocab_size == 36
    assert not large.training
    ids = torch.arange(8)[None]
    with torch.no_grad():
        torch.testing.assert_close(large(ids).logits[..., :31], small(ids).logits)
    new = {name: tensor[31:] for name, tensor in large.state_dict().items() if len(tensor) == 36}
    assert new.keys() == {"embedding.tokens.weight", "head.bias"} | (set() if tied else {"head.output.weight"})
    assert float(new["embedding.tokens.weight"].detach().std()) == pytest.approx(0.3, rel=0.4)
    large(ids).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in large.parameters())
