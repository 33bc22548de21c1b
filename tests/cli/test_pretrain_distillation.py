"""A student from a teacher of ours, through the real command: BERT and DistilBERT, and two causal models."""

import contextlib
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_files import flip, read_json, receipt
from tiny_runs import Replaced, assert_same_bits, pretrain, records, run_here, run_tfkit, spoil, strike, write_corpus
from transformers import AutoModelForMaskedLM

from tfkit.engine.assembly import memory_plan
from tfkit.hub import load
from tfkit.recipe import read_recipe
from tfkit.run.manifest import write_manifest

pytestmark = pytest.mark.usefixtures("in_place")

STEPS = 8
COMMON = """
data: {train: [{path: corpus}], validation: 0.3}
training: {steps: 8, batch_size: 4, micro_batch_size: 2, log_every: 3}
checkpoint: {every: 3}
evaluation: {every: 4, max_tokens: 200}
carbon: {enabled: false}
"""
SIZES = "dim: 16, num_heads: 2, context_length: 16, init: {std: 0.1}"
TEACH = "teacher: bert, of: {kind: masked_lm, rarity: 0.7}, temperature: 2, teacher_weight: 5, text_weight: 2, cosine_weight: 1"
RECIPES = {
    "bert": f"""
model: {{preset: bert-tiny, encoder_layers: 4, {SIZES}}}
tokenizer: {{kind: wordpiece, vocab_size: 300}}
objective: {{kind: masked_lm}}""",
    "distilbert": f"""
model: {{preset: distilbert-base, encoder_layers: 2, {SIZES}}}
tokenizer: {{path: bert}}
objective: {{kind: distillation, {TEACH}, copy_layers: [0, 2]}}""",
    "gpt": f"""
model: {{preset: gpt2, decoder_layers: 2, {SIZES}, dropout: {{embedding: 0.1}}}}
tokenizer: {{vocab_size: 300}}""",
    # Gemma 2's way, in bf16, from a wider teacher: the teacher's probabilities alone.
    "small": """
model: {preset: gpt2, decoder_layers: 1, dim: 8, num_heads: 2, context_length: 16, init: {std: 0.1}, dropout: {embedding: 0.1}}
tokenizer: {path: gpt/checkpoints/step-000008}
objective: {kind: distillation, teacher: gpt/checkpoints/step-000008, of: {kind: causal_lm}}""",
}
PRECISION = {"distilbert": "fp32", "small": "bf16"}
TEACHERS = {"distilbert": "bert", "small": "gpt"}
STUDENTS = pytest.mark.parametrize("student", TEACHERS)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs, with the recipes, which name their teachers from there, and the teachers trained."""
    folder = tmp_path_factory.mktemp("distillation")
    write_corpus(folder / "corpus")
    for name, text in RECIPES.items():
        (folder / f"{name}.yaml").write_text(f"# A recipe for tests.{text}{COMMON}", encoding="utf-8")
    with contextlib.chdir(folder):
        for name in TEACHERS.values():
            pretrain(folder / name, folder / f"{name}.yaml").exits(0)
    return folder


def taught(run: Path, student: str, *words: str, before: Callable[[], object] | None = None) -> Any:
    return pretrain(run, Path(f"{student}.yaml"), f"training.precision={PRECISION[student]}", *words, before=before)


@pytest.fixture(scope="module")
def unbroken(place: Path) -> Callable[[str], Path]:
    """The run of a student that was never stopped; made when it is first asked for."""

    def run(student: str) -> Path:
        path = place / f"whole-{student}"
        if not path.exists():
            taught(path, student).exits(0)
        return path

    return run


@STUDENTS
def test_a_student_is_its_own_model_and_names_its_teacher(place: Path, unbroken: Callable[[str], Path], student: str) -> None:
    run = unbroken(student)
    checkpoint, teacher = run / "checkpoints" / "step-000008", place / TEACHERS[student]
    lineage, run_id = read_json(checkpoint / "tfkit.json")["lineage"], receipt(teacher)["run_id"]
    parent, source = lineage["parents"]
    assert (parent["role"], parent["run_id"], source) == ("teacher", run_id, parent | {"role": "tokenizer"})
    assert [(one["roles"], one["run_id"]) for one in lineage["ancestors"]] == [(["teacher", "tokenizer"], run_id)]
    assert parent == receipt(run)["parents"][0]
    assert parent["sha256"] == read_recipe(str(run / "recipe.yaml")).recipe.objective.teacher_sha256
    assert len(parent["sha256"]) == 64
    model = load(checkpoint).model
    assert {name for name, _ in model.named_parameters()} < {name for name, _ in load(teacher).model.named_parameters()}
    state = load_file(checkpoint / "training_state" / "optimizer.safetensors")
    kept = sum(tensor.numel() for tensor in state.values())
    assert kept == pytest.approx(2 * sum(parameter.numel() for parameter in model.parameters()), rel=0.01)  # nothing of the teacher's
    (evaluation,) = (record["evaluation"] for record in records(run) if record["step"] == 8 and "evaluation" in record)
    assert {"loss", "perplexity"} < evaluation.keys()


def test_the_log_has_each_loss_of_its_own(unbroken: Callable[[str], Path]) -> None:
    lines = [record for record in records(unbroken("distilbert")) if "loss" in record]
    assert [line["step"] for line in lines] == [3, 6, 8]
    for line in lines:
        assert line["loss"] == pytest.approx(5 * line["teacher_loss"] + 2 * line["mlm_loss"] + line["cosine_loss"], rel=1e-9)
    assert not any("teacher_loss" in record for record in records(unbroken("small")))  # it is the loss


def test_transformers_reads_the_student_as_a_distilbert(unbroken: Callable[[str], Path]) -> None:
    checkpoint = unbroken("distilbert") / "checkpoints" / "step-000008"
    theirs, ours = AutoModelForMaskedLM.from_pretrained(checkpoint).eval(), load(checkpoint).model
    assert type(theirs).__name__ == "DistilBertForMaskedLM"
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.thorough
@STUDENTS
def test_resuming_is_exact(tmp_path: Path, unbroken: Callable[[str], Path], student: str) -> None:
    run = tmp_path / "run"
    taught(run, student, before=strike(signal.SIGTERM, 3)).exits(143)
    taught(run, student, "--resume", before=strike(signal.SIGKILL, 7)).exits(-signal.SIGKILL)
    taught(run, student, "--resume").exits(0)
    assert_same_bits(run, unbroken(student), STEPS)


def test_a_run_does_not_go_on_with_another_teacher(place: Path, tmp_path: Path) -> None:
    """Not even if the new one has the old one's name, as after the teacher's own run continued."""
    run = tmp_path / "run"
    taught(run, "distilbert", before=strike(signal.SIGTERM, 9)).exits(143)
    taught(run, "distilbert", "--resume", "objective.teacher=gpt").exits(2, "objective.teacher: bert in the run, gpt now")
    shutil.copytree(place / "bert", tmp_path / "bert")
    (weights,) = (tmp_path / "bert" / "checkpoints").glob("*8/model.safetensors")
    flip(weights)
    shutil.rmtree(tmp_path / "bert" / "checkpoints" / "step-000006")
    (weights.parent / "manifest.json").unlink()
    write_manifest(weights.parent)
    shutil.move(place / "bert", place / "kept")
    try:
        shutil.move(tmp_path / "bert", place / "bert")
        done = taught(run, "distilbert", "--resume")
        shutil.rmtree(place / "bert")
    finally:
        shutil.move(place / "kept", place / "bert")
    done.exits(4, "objective.teacher: bert has changed since this run was started: the SHA-256 of its weights was ")
    taught(run, "distilbert", "--resume").exits(0)  # the refusal has changed nothing


def test_a_bad_step_of_a_student_is_replayed(tmp_path: Path) -> None:
    run, module = tmp_path / "run", "encoder.blocks.1.mlp.op.up_proj"
    taught(run, "distilbert", before=spoil(module, 5)).exits(6)
    found = run_tfkit(tmp_path, ["replay", str(run), "--json"], spoil(module, 5)).exits(0).document
    assert found["first_bad"] == {"module": module, "in": "forward", "micro_batch": 0}


LARGE = Replaced(memory_plan, "_count_parameters", lambda _: lambda folder: 10**15)


def test_a_teacher_that_does_not_fit_is_named_before_anything_is_tokenized(tmp_path: Path) -> None:
    pin = "f" * 64
    for words, said in {
        "objective.copy_layers=[0, 4]": "copy_layers: the teacher has no layer 4, only 0 to 3",
        f"objective.teacher_sha256={pin}": f"bert has changed since this recipe was run: the SHA-256 of its weights was {pin} and is now ",
        "objective.teacher=nowhere": "objective.teacher: nowhere: there is no such folder",
    }.items():
        assert "tokenizing" not in taught(tmp_path / "run", "distilbert", words).exits(4, said).err
    taught(tmp_path / "large", "distilbert", before=LARGE).exits(5, "weights of the teacher bert need")


def test_an_adapter_teaches_as_the_model_that_it_makes(tmp_path: Path) -> None:
    """Its folder has no whole weights; what they need is read from its base."""
    tuned, tune = tmp_path / "tuned", tmp_path / "tune.yaml"
    tune.write_text(f"# For a test.\nmodel: {{from: START}}\nobjective: {{kind: causal_lm}}\n{COMMON}", encoding="utf-8")
    words = ["--from", "gpt", "--run", tuned, "--threads", "1", "training.adapter={rank: 2}", "training.steps=2"]
    run_here(["finetune", tune, *words]).exits(0)
    taught(tmp_path / "run", "small", f"objective.teacher={tuned}", "training.steps=2").exits(0)
    facts = read_json(tmp_path / "run" / "checkpoints" / "step-000002" / "tfkit.json")
    assert facts["lineage"]["parents"][0]["path"] == str(tuned)
    taught(tmp_path / "large", "small", f"objective.teacher={tuned}", before=LARGE).exits(5, "weights of the teacher")


def test_a_student_is_tuned_with_a_teacher_and_has_two_parents(tmp_path: Path, unbroken: Callable[[str], Path]) -> None:
    objective = "objective: {kind: distillation, teacher: gpt, of: {kind: causal_lm}, text_weight: 1}"
    (tmp_path / "tuned.yaml").write_text(f"# A recipe for tests.\n{objective}{COMMON}", encoding="utf-8")
    start, run = str(unbroken("small")), tmp_path / "run"
    tune = ["finetune", tmp_path / "tuned.yaml", "--from", start, "--run", run, "--threads", "1"]
    said = "objective.copy_layers: the student begins with the weights of model.from already; remove one of the two"
    run_here([*tune, "objective.copy_layers=[1]"]).exits(2, said)
    run_here(tune).exits(0)
    facts = read_json(run / "checkpoints" / "step-000008" / "tfkit.json")
    assert [(parent["role"], parent["path"]) for parent in facts["lineage"]["parents"]] == [("start", start), ("teacher", "gpt")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("tokenizer={kind: wordpiece}", "tokenizer: a student needs its teacher's tokenizer: set tokenizer.path"),
        ("objective.copy_layers=[0, 1, 2]", "objective.copy_layers: names 3 layers for a student of 2: name one for each of them"),
        ("objective.teacher_weight=0 | objective.cosine_weight=0", "objective: nothing is learned from the teacher"),
        ("objective.teacher_weight=0", "objective.temperature: only the divergence from the teacher reads it"),
        ("objective.of={kind: causal_lm}", "model: the objective causal_lm trains decoders; this model has an encoder"),
        ("objective.of.rat=0.2", "objective.of.rat: unknown, did you mean rate"),
        ("objective.of={kind: masked}", "objective.of.kind: 'masked' is none of causal_lm, masked_lm; did you mean masked_lm"),
        ("objective.of=null", "objective.of: is empty: give it fields"),
        ("objective.teacher_weight=0 | objective.temperature=1 | objective.masked_only=true", "objective.masked_only: only the divergence"),
    ],
)
def test_check_says_what_is_wrong(words: str, said: str) -> None:
    run_here(["check", "distilbert.yaml", *words.split(" | ")]).exits(2, f": {said}")
