"""tfkit finetune with an adapter, and with parameters that stay as they are: exact, resumed, opened by peft; refused where it cannot be."""

import contextlib
import hashlib
import shutil
import signal
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny_files import flip, read_json
from tiny_runs import Done, assert_same_bits, exact, finetune, pretrain, run_here, run_tfkit, spoil, strike
from transformers import AutoModelForCausalLM

import tfkit
from tfkit.adapters import load
from tfkit.run.manifest import write_manifest

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")  # of peft

TASK = """
model: {from: START}
data: {train: [{path: labelled.jsonl}], validation: [{path: labelled.jsonl}]}
objective: {kind: classification}
optimizer: {lr: 1e-1}
training: {steps: 6, batch_size: 4, precision: fp32, log_every: 1}
evaluation: {every: 3}
carbon: {enabled: false}
"""
LORA = "training.adapter={kind: lora, rank: 2, dropout: 0.1}"
MERGED = "training.adapter={kind: lora, rank: 2, dropout: 0.1, merge: true}"
TEXT = ["data={train: [{path: labelled.jsonl}], validation: 0.3}", "objective={kind: causal_lm}"]
SAVED = ("adapter_model.safetensors", "adapter_config.json", "training_state/optimizer.safetensors", "config.json", "tokenizer.json")


def evaluated(run: str) -> Done:
    return run_here(["evaluate", "--from", run, "--data", "labelled.jsonl", "--json", "carbon.enabled=false"])


def saved(run: str, step: int = 6) -> dict[str, str]:
    folder = Path(run) / "checkpoints" / f"step-{step:06d}"
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in SAVED}


def state(run: str, step: int = 6) -> dict[str, torch.Tensor]:
    return load_file(Path(run) / "checkpoints" / f"step-{step:06d}" / "training_state" / "optimizer.safetensors")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("words", [[], ["training.ema_decay=0.7", "training.precision=bf16"]])
def test_an_adapter_with_a_new_head_is_trained_resumed_and_opened_by_peft(work: Path, words: list[str]) -> None:
    import peft

    start = ["--from", "bert", LORA, *words]
    updates, head = 2 * 2 * 2 * (2 * 16), 16 * 16 + 16 + 2 * 16 + 2  # layers, q and v, A and B; pooler and classes
    done = finetune("whole", *start).exits(0, f"training {updates + head:,} of ")
    finetune("run", *start, before=strike(signal.SIGTERM, 3)).exits(143)
    finetune("run", *start, "--resume").exits(0)
    assert saved("run") == saved("whole")
    assert exact(work / "run") == exact(work / "whole")
    assert finetune("whole", *start, "--resume").exits(0, "this run is finished").out == done.out
    folder = work / "whole" / "checkpoints" / "step-000006"
    assert not (folder / "model.safetensors").exists()

    loaded = tfkit.load("whole")
    assert loaded.labels == ("bad", "good")
    ids = torch.tensor([[2, 9, 11, 40, 3], [2, 50, 7, 8, 3]])
    assert Path(read_json(folder / "adapter_config.json")["base_model_name_or_path"]).is_absolute()
    [opening] = (line for line in (folder / "README.md").read_text().splitlines() if line.startswith("    peft."))
    with contextlib.chdir(folder):
        theirs = eval(opening.strip(), {"peft": peft, "transformers": transformers})
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits, theirs.eval()(ids).logits, atol=1e-4, rtol=0)
    before, after = load("bert").model.state_dict(), loaded.model.state_dict()
    changed = {name for name, tensor in before.items() if name in after and not torch.equal(tensor, after[name])}
    assert changed == {f"encoder.blocks.{i}.self_attention.op.{part}_proj.weight" for i in range(2) for part in "qv"}


def test_only_what_is_trained_has_state(work: Path) -> None:
    finetune("run", "--from", "bert", LORA, "training.steps=1").exits(0)
    known = {name.rpartition("/")[0] for name in state("run", 1) if not name.startswith("latest/")}
    assert known == {name.removeprefix("latest/") for name in state("run", 1) if name.startswith("latest/")}
    assert all(".lora_" in name or name.startswith("head.") for name in known)
    assert len(known) == 2 * 2 * 2 + 4
    muon = ["optimizer={kind: muon, lr: 1e-2}", "training.steps=2", "evaluation.every=null"]
    finetune("muon", "--from", "gpt", LORA, *TEXT, *muon).exits(0)  # of a language model the factors alone, so AdamW has nothing to do
    assert {name.rpartition("/")[2] for name in state("muon", 2) if not name.startswith("latest/")} == {"momentum_buffer"}


@pytest.mark.thorough
def test_a_merged_run_takes_the_same_steps_and_its_checkpoint_is_a_whole_model(work: Path) -> None:
    import peft

    finetune("kept", "--from", "gpt", LORA, *TEXT).exits(0)
    finetune("merged", "--from", "gpt", MERGED, *TEXT, before=strike(signal.SIGTERM, 4)).exits(143)
    finetune("merged", "--from", "gpt", MERGED, *TEXT, "--resume").exits(0)
    assert exact(work / "kept") == exact(work / "merged")
    kept, merged = (work / f"{run}/checkpoints/step-000006" for run in ("kept", "merged"))
    assert not (merged / "adapter_config.json").exists()
    base = AutoModelForCausalLM.from_pretrained(read_json(kept / "adapter_config.json")["base_model_name_or_path"])
    ids = torch.tensor([[1, 40, 100, 7, 200]])
    with torch.no_grad():
        ours = tfkit.load("kept").model(ids).logits
        for theirs in (AutoModelForCausalLM.from_pretrained(merged), peft.PeftModel.from_pretrained(base, kept)):
            torch.testing.assert_close(theirs.eval()(ids).logits, ours, atol=1e-4, rtol=0)
        assert (tfkit.load("gpt").model(ids).logits - ours).abs().max() > 1e-3


def test_an_adapter_is_evaluated_written_with_and_trained_further_as_any_checkpoint(work: Path) -> None:
    finetune("run", "--from", "gpt", LORA, *TEXT, "checkpoint.every=3").exits(0)
    run_here(["average", "run", "--out", "mean", "--last", "2"]).exits(4, "the mean of their factors is not that of the weights")
    tfkit.load("run").save("whole")
    own, merged = (evaluated(name).exits(0).document["metrics"]["loss"] for name in ("run", "whole"))
    assert own == pytest.approx(merged, abs=1e-6)
    words = ["--prompt", "the cat", "generation.temperature=0", "generation.max_new_tokens=4", "carbon.enabled=false"]
    own, merged = (run_here(["generate", "--from", name, *words]).exits(0).out for name in ("run", "whole"))
    assert own == merged
    finetune("further", "--from", "run", "optimizer={lr: 1e-30, weight_decay: 0}", "training.steps=1", *TEXT).exits(0)
    torch.testing.assert_close(load("further").model.state_dict(), load("whole").model.state_dict(), atol=0, rtol=0)
    merge = "is an adapter, and an adapter of an adapter is not supported: merge it first", "or set training.adapter.merge=true"
    finetune("second", "--from", "run", LORA, *TEXT).exits(2, *merge)
    finetune("second", "--from", "run", MERGED, *TEXT).exits(0)


def test_a_base_that_is_gone_or_another_is_reported(work: Path) -> None:
    finetune("run", "--from", "bert", LORA, "training.steps=1").exits(0)
    shutil.move(work / "bert", work / "elsewhere")
    gone = "/bert/checkpoints/step-000003 does not exist: restore it, or set base_model_name_or_path in adapter_config.json"
    evaluated("run").exits(4, gone)
    finetune("run", "--from", "bert", LORA, "training.steps=2", "--resume").exits(4)
    shutil.move(work / "elsewhere", work / "bert")
    (work / "moved").mkdir()
    for name in ("bert", "run"):  # together they may move
        shutil.move(work / name, work / "moved" / name)
    assert tfkit.load("moved/run").labels == ("bad", "good")
    weights = work / "moved/bert/checkpoints/step-000003/model.safetensors"
    flip(weights)
    evaluated("moved/run").exits(4, "model.safetensors: damaged: its SHA-256")
    write_manifest(weights.parent)  # another model, and whole
    evaluated("moved/run").exits(4, "the updates were trained on a different base model than")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("words", [[], ["training.ema_decay=0.7", "training.precision=bf16"]])
def test_frozen_parameters_stay_and_the_rest_is_trained(work: Path, words: list[str]) -> None:
    frozen = ["--from", "bert", "training.frozen=['embedding.*', 'encoder.blocks.0.*']", "optimizer.lr=1e-2", *words]
    finetune("whole", *frozen).exits(0, "training 3,")
    finetune("run", *frozen, before=strike(signal.SIGTERM, 3)).exits(143)
    finetune("run", *frozen, "--resume").exits(0)
    assert_same_bits(work / "run", work / "whole", 6)
    before, after = load("bert").model.state_dict(), load("whole").model.state_dict()
    stays = {name for name in after if name.startswith(("embedding.", "encoder.blocks.0."))}
    assert {name for name in before.keys() & after.keys() if torch.equal(before[name], after[name])} == stays
    assert {name.rpartition("/")[0] for name in state("whole") if not name.startswith("latest/")} == after.keys() - stays


def test_what_cannot_be_is_refused_before_the_first_step(work: Path) -> None:
    for words, message in (
        (["training.frozen=[emb.*]"], "'emb.*' matches no parameter of the model; the parameters are embedding.tokens.weight, "),
        (["training.frozen=['*']"], "training.frozen: * freezes every parameter of the model, so nothing is left to train"),
        (["training.adapter={targets: [c]}"], "'c' matches no matrix of the model's stacks; the matrices are encoder.blocks.*.self_att"),
        ([LORA, "training.frozen=[embedding.*]"], "with an adapter all weights but its own and those of a new head are frozen already"),
        (["training.adapter={rank: 0}"], "training.adapter.rank: "),
        (["training.adapter={kind: lora, ranks: 3}"], "training.adapter.ranks: unknown, did you mean rank"),
        (
            [LORA, "model.embedding.norm=false"],
            "embedding would differ, and an adapter changes weights and the head only: set training.adapter.merge, or",
        ),
    ):
        finetune("run", "--from", "bert", *words).refuses(2, message)
        assert not list((work / "run").glob("checkpoints/step-*"))


def test_a_step_that_is_no_number_is_replayed_through_the_updates(work: Path) -> None:
    """Two steps after a checkpoint: the replay has its factors, takes the steps again, and names the layer with an update."""
    fault = spoil("encoder.blocks.1.self_attention.op.v_proj", 5)
    finetune("run", "--from", "bert", LORA, "checkpoint.every=3", before=fault).exits(6)
    done = run_tfkit(work, ["replay", "run", "--json", "--threads", "1"], fault).exits(0)
    assert done.document["first_bad"] == {"module": "encoder.blocks.1.self_attention.op.v_proj", "in": "forward", "micro_batch": 0}


def test_what_a_pretraining_refuses_before_its_first_step(starts: Path, tmp_path: Path) -> None:
    for words, message in (
        ([LORA], "an adapter updates the weights of a checkpoint: give model.from, or remove it"),
        (  # the score of a choice alone, which text has no use for
            ["model.head.choices=true", "training.frozen=['embedding.*', 'decoder.*']"],
            "training.frozen: no trained parameter contributes to the loss; remove patterns",
        ),
    ):
        pretrain(tmp_path / "run", starts / "tiny.yaml", *words).exits(2, message)
        assert not list((tmp_path / "run").glob("checkpoints/step-*"))
