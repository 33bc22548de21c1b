"""tfkit finetune with an adapter, and with parameters that stay as they are: exact, resumed, opened by peft; refused where it cannot be."""

import contextlib
import hashlib
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from spoilt_steps import spoil
from tiny_files import read_json
from tiny_runs import Done, assert_same_bits, exact, pretrain, run_tfkit, strike
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
TEXT = ["data={train: [{path: labelled.jsonl}], validation: 0.3}", "objective={kind: causal_lm}"]
SAVED = ("adapter_model.safetensors", "adapter_config.json", "training_state/optimizer.safetensors", "config.json", "tokenizer.json")


@pytest.fixture
def work(starts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a test's own, with the starts of all in it, and a recipe."""
    folder = shutil.copytree(starts, tmp_path / "work")
    (folder / "task.yaml").write_text(f"# For a test.{TASK}", encoding="utf-8")
    monkeypatch.chdir(folder)
    return folder


def tfkit_(*words: str, before: Any = None) -> Done:
    return run_tfkit(Path.cwd(), [*words, *(["--threads", "1"] if words[0] != "average" else [])], before)


def finetune(run: str, *words: str, before: Any = None) -> Done:
    return tfkit_("finetune", "task.yaml", "--run", run, *words, before=before)


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
    done = finetune("whole", *start).exits(0)
    updates, head = 2 * 2 * 2 * (2 * 16), 16 * 16 + 16 + 2 * 16 + 2  # layers, q and v, A and B; pooler and classes
    assert f"training {updates + head:,} of " in done.err
    finetune("run", *start, before=strike(signal.SIGTERM, 3)).exits(143)
    finetune("run", *start, "--resume").exits(0)
    assert saved("run") == saved("whole")
    assert exact(work / "run") == exact(work / "whole")
    again = finetune("whole", *start, "--resume")
    assert (again.code, again.out, "this run is finished" in again.err) == (0, done.out, True), again.err
    folder = work / "whole" / "checkpoints" / "step-000006"
    assert not (folder / "model.safetensors").exists()

    loaded = tfkit.load("whole")
    assert loaded.labels == ("bad", "good")
    ids = torch.tensor([[2, 9, 11, 40, 3], [2, 50, 7, 8, 3]])
    base = read_json(folder / "adapter_config.json")["base_model_name_or_path"]
    assert Path(base).is_absolute()
    [opening] = (line for line in (folder / "README.md").read_text().splitlines() if line.startswith("    peft."))
    with contextlib.chdir(folder):
        theirs = eval(opening.strip(), {"peft": peft, "transformers": transformers})
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits, theirs.eval()(ids).logits, atol=1e-4, rtol=0)
    before = load("bert").model.state_dict()
    after = loaded.model.state_dict()
    changed = {name for name, tensor in before.items() if name in after and not torch.equal(tensor, after[name])}
    assert changed == {f"encoder.blocks.{i}.self_attention.op.{part}_proj.weight" for i in range(2) for part in "qv"}


def test_only_what_is_trained_has_state(work: Path) -> None:
    finetune("run", "--from", "bert", LORA, "training.steps=1").exits(0)
    known = {name.rpartition("/")[0] for name in state("run", 1) if not name.startswith("latest/")}
    assert known == {name.removeprefix("latest/") for name in state("run", 1) if name.startswith("latest/")}
    assert all(".lora_" in name or name.startswith("head.") for name in known)
    assert len(known) == 2 * 2 * 2 + 4


@pytest.mark.thorough
def test_a_merged_run_takes_the_same_steps_and_its_checkpoint_is_a_whole_model(work: Path) -> None:
    import peft

    merged = f"{LORA[:-1]}, merge: true}}"
    finetune("kept", "--from", "gpt", LORA, *TEXT).exits(0)
    finetune("merged", "--from", "gpt", merged, *TEXT, before=strike(signal.SIGTERM, 4)).exits(143)
    finetune("merged", "--from", "gpt", merged, *TEXT, "--resume").exits(0)
    assert exact(work / "kept") == exact(work / "merged")
    ids = torch.tensor([[1, 40, 100, 7, 200]])
    folder = work / "merged" / "checkpoints" / "step-000006"
    assert not (folder / "adapter_config.json").exists()
    base = read_json(work / "kept/checkpoints/step-000006/adapter_config.json")["base_model_name_or_path"]
    with torch.no_grad():
        ours = tfkit.load("kept").model(ids).logits
        torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits, ours, atol=1e-4, rtol=0)
        fused = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), work / "kept/checkpoints/step-000006")
        torch.testing.assert_close(fused.eval()(ids).logits, ours, atol=1e-4, rtol=0)
        assert (tfkit.load("gpt").model(ids).logits - ours).abs().max() > 1e-3


def test_an_adapter_is_evaluated_written_with_and_trained_further_as_any_checkpoint(work: Path) -> None:
    finetune("run", "--from", "gpt", LORA, *TEXT).exits(0)
    tfkit.load("run").save("whole")
    scores = []
    for name in ("run", "whole"):
        done = tfkit_("evaluate", "--from", name, "--data", "labelled.jsonl", "--json", "carbon.enabled=false").exits(0)
        scores.append(done.document["metrics"]["loss"])
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    words = ["--prompt", "the cat", "generation.temperature=0", "generation.max_new_tokens=4", "carbon.enabled=false"]
    texts = [tfkit_("generate", "--from", name, *words) for name in ("run", "whole")]
    assert texts[0].code == 0, texts[0].err
    assert texts[0].out == texts[1].out
    finetune("further", "--from", "run", "optimizer={lr: 1e-30, weight_decay: 0}", "training.steps=1", *TEXT).exits(0)
    torch.testing.assert_close(load("further").model.state_dict(), load("whole").model.state_dict(), atol=0, rtol=0)
    done = finetune("second", "--from", "run", LORA, *TEXT)
    assert (done.code, "is an adapter, and an adapter of an adapter is not supported: merge it first" in done.err) == (2, True), done.err
    assert "or set training.adapter.merge=true" in done.err
    finetune("second", "--from", "run", f"{LORA[:-1]}, merge: true}}", *TEXT).exits(0)


def test_a_base_that_is_gone_or_another_is_reported(work: Path) -> None:
    finetune("run", "--from", "bert", LORA, "training.steps=1").exits(0)
    shutil.move(work / "bert", work / "elsewhere")
    done = tfkit_("evaluate", "--from", "run", "--json", "carbon.enabled=false").exits(4)
    assert "/bert/checkpoints/step-000003 does not exist: restore it, or set base_model_name_or_path in adapter_config.json" in done.err
    finetune("run", "--from", "bert", LORA, "training.steps=2", "--resume").exits(4)
    shutil.move(work / "elsewhere", work / "bert")
    (work / "moved").mkdir()
    for name in ("bert", "run"):  # together they may move
        shutil.move(work / name, work / "moved" / name)
    assert tfkit.load("moved/run").labels == ("bad", "good")
    weights = work / "moved/bert/checkpoints/step-000003/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    tfkit_("evaluate", "--from", "moved/run", "--json", "carbon.enabled=false").exits(4, "model.safetensors: damaged: its SHA-256")
    write_manifest(weights.parent)  # another model, and whole
    done = tfkit_("evaluate", "--from", "moved/run", "--json", "carbon.enabled=false")
    assert (done.code, "the updates were trained on a different base model than" in done.err) == (4, True), done.err


@pytest.mark.sampled(2)
@pytest.mark.parametrize("words", [[], ["training.ema_decay=0.7", "training.precision=bf16"]])
def test_frozen_parameters_stay_and_the_rest_is_trained(work: Path, words: list[str]) -> None:
    frozen = ["--from", "bert", "training.frozen=['embedding.*', 'encoder.blocks.0.*']", "optimizer.lr=1e-2", *words]
    finetune("whole", *frozen).exits(0, "training 3,")
    finetune("run", *frozen, before=strike(signal.SIGTERM, 3)).exits(143)
    finetune("run", *frozen, "--resume").exits(0)
    assert_same_bits(work / "run", work / "whole", 6)
    before, after = load("bert").model.state_dict(), load("whole").model.state_dict()
    for name, tensor in before.items():
        if name in after:
            stays = name.startswith(("embedding.", "encoder.blocks.0."))
            assert torch.equal(tensor, after[name]) == stays, name
    named = {name.removeprefix("latest/").rpartition("/")[0] for name in state("whole") if not name.startswith("latest/")}
    assert named == {name for name in after if not name.startswith(("embedding.", "encoder.blocks.0."))}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["training.frozen=[embeddings.*]"],
            "'embeddings.*' matches no parameter of the model; the parameters are embedding.tokens.weight, ",
        ),
        (["training.frozen=['*']"], "training.frozen: * freezes every parameter of the model, so nothing is left to train"),
        (
            ["training.adapter={targets: [c_attn]}"],
            "'c_attn' matches no matrix of the model's stacks; the matrices are encoder.blocks.*.self_att",
        ),
        ([LORA, "training.frozen=[embedding.*]"], "with an adapter all weights but its own and those of a new head are frozen already"),
        (["training.adapter={rank: 0}"], "training.adapter.rank: "),
        (["training.adapter={kind: lora, ranks: 3}"], "training.adapter.ranks: unknown, did you mean rank"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_step(work: Path, words: list[str], message: str) -> None:
    finetune("run", "--from", "bert", *words).refuses(2, message)
    assert not list((work / "run").glob("checkpoints/step-*"))


def test_an_adapter_is_of_the_base_as_it_is(work: Path) -> None:
    done = finetune("run", "--from", "bert", LORA, "model.embedding.norm=false")
    assert (done.code, done.out) == (2, ""), done.err
    assert "embedding would differ, and an adapter changes weights and the head only: set training.adapter.merge, or" in done.err


def test_muon_steps_the_factors_alone(work: Path) -> None:
    """Of a language model nothing else is trained, so that AdamW has nothing to do."""
    finetune("run", "--from", "gpt", LORA, *TEXT, "optimizer={kind: muon, lr: 1e-2}", "training.steps=2", "evaluation.every=null").exits(0)
    assert {name.rpartition("/")[2] for name in state("run", 2) if not name.startswith("latest/")} == {"momentum_buffer"}


def test_without_a_checkpoint_there_is_nothing_to_adapt(starts: Path, tmp_path: Path) -> None:
    done = pretrain(tmp_path / "run", starts / "tiny.yaml", LORA)
    assert (done.code, "an adapter updates the weights of a checkpoint: give model.from, or remove it" in done.err) == (2, True)


def test_a_step_that_is_no_number_is_replayed_through_the_updates(work: Path) -> None:
    """Two steps after a checkpoint: the replay has its factors, takes the steps again, and names the layer with an update."""
    fault = spoil("encoder.blocks.1.self_attention.op.v_proj", 5)
    finetune("run", "--from", "bert", LORA, "checkpoint.every=3", before=fault).exits(6)
    done = tfkit_("replay", "run", "--json", before=fault).exits(0)
    assert done.document["first_bad"] == {"module": "encoder.blocks.1.self_attention.op.v_proj", "in": "forward", "micro_batch": 0}


def test_the_mean_of_adapters_is_refused(work: Path) -> None:
    finetune("run", "--from", "bert", LORA, "checkpoint.every=3").exits(0)
    tfkit_("average", "run", "--out", "mean", "--last", "2").exits(4, "the mean of their factors is not that of the weights")


def test_what_is_trained_must_have_a_part_in_the_loss(starts: Path, tmp_path: Path) -> None:
    """The score of a choice alone, which text has no use for."""
    words = ["model.head.choices=true", "training.frozen=['embedding.*', 'decoder.*']"]
    done = pretrain(tmp_path / "run", starts / "tiny.yaml", *words)
    assert (done.code, "training.frozen: no trained parameter contributes to the loss; remove patterns" in done.err) == (2, True), done.err
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))
