"""PPO in the real commands: trained, killed within its steps, resumed, evaluated, refused."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_files import edit_config, read_json, write_rows
from tiny_runs import Done, exact, hashes, run_here, strike
from tiny_worlds import evaluations, steps, write_world

from tfkit import predict
from tfkit.adapters import load
from tfkit.objectives.companion import Companion
from tfkit.objectives.score_model import GoldModel
from tfkit.run.safetensors_header import read_header

STEPS = 6
RECIPE = """
# PPO with text of the pretraining, for tests.
model: {from: base}
data:
  train: [{path: prompts.jsonl}]
  validation: [{path: others.jsonl}]
  pretraining: [{path: corpus}]
objective:
  {kind: ppo, rules: [{kind: contains, text: a}], reward: scores, value: critic, gold: judge, value_lr: 3e-3, prompts: 4, completions: 2,
   inner_epochs: 2, max_new_tokens: 5, ptx_weight: 0.5, ptx_ratio: 2, kl_target: 0.5, kl_horizon: 100}
optimizer: {kind: adamw, lr: 5e-3, eps: 1e-5}
training: {steps: 6, batch_size: 4, micro_batch_size: 2, precision: fp32, log_every: 1}
checkpoint: {every: 1, keep: 9}
evaluation: {every: 3}
carbon: {enabled: false}
"""


REWARD = """
model: {from: base}
data: {train: [{path: pairs.jsonl}]}
objective: {kind: reward}
training: {steps: 4, batch_size: 4, precision: fp32}
carbon: {enabled: false}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with prompts, a policy to start from, a judge, and a reward model."""
    folder = tmp_path_factory.mktemp("ppo")
    words = write_world(folder)
    pairs = [{"prompt": " ".join(words[i : i + 4]), "chosen": " cat sat", "rejected": f" {words[i]} ran"} for i in range(40)]
    write_rows(folder / "pairs.jsonl", pairs)
    (folder / "ppo.yaml").write_text(RECIPE, encoding="utf-8")
    (folder / "reward.yaml").write_text(REWARD, encoding="utf-8")
    run_here(["finetune", "reward.yaml", "--run", "scores", "--threads", "1"], folder).exits(0)
    shutil.copytree(folder / "scores" / "checkpoints" / "step-000004", folder / "critic")
    return folder


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """Return the run that was never stopped."""
    run_here(["finetune", "ppo.yaml", "--run", "whole", "--threads", "1"], place).exits(0)
    return place / "whole"


def test_its_log_has_what_papers_plot(whole: Path) -> None:
    found = steps(whole)
    wanted = {"policy_loss", "value_loss", "ptx_loss", "reward", "kl", "entropy", "clip_fraction", "largest_ratio", "approximate_kl"}
    wanted |= {"gold", "explained_variance", "response_length", "ended", "value_grad_norm", "beta"}
    assert all(wanted <= step.keys() for step in found)
    assert [step["largest_ratio"] == 1.0 for step in found[::2]] == [True, False, True]  # an iteration has four steps
    assert found[0]["kl"] == 0.0 < found[-1]["kl"]
    assert found[-1]["ptx_loss"] < found[0]["ptx_loss"]
    scores = evaluations(whole)[STEPS]
    assert [*scores] == ["reward", "accuracy", "gold", "kl", "response_length", "ended"]
    assert 0 < scores["gold"] < 1


def test_a_checkpoint_has_both_models_and_names_what_they_come_from(whole: Path) -> None:
    checkpoint = whole / "checkpoints" / f"step-{STEPS:06d}"
    saved = read_header(checkpoint / "training_state" / "optimizer.safetensors").keys()
    assert "companions/value/weights/head.classes.weight" in saved
    assert "loader/ids" in saved  # step 6 is within the second iteration
    assert "head.classes.weight" not in read_header(checkpoint / "model.safetensors")
    facts = read_json(checkpoint / "tfkit.json")
    assert [parent["role"] for parent in facts["lineage"]["parents"]] == ["start", "reward", "gold", "value"]
    assert len(facts["data"]["pretraining"]) == 1


@pytest.mark.sampled(2)
@pytest.mark.parametrize("forward", [3, 18], ids=["in ptx", "in the second iteration"])
def test_f02_a_killed_run_goes_on_to_the_same_bits(forward: int, whole: Path, place: Path, tfkit: Callable[..., Done]) -> None:
    run = f"killed-{forward}"
    words = ("finetune", "ppo.yaml", "--run", run)
    assert tfkit(*words, before=strike(signal.SIGKILL, forward)).code == -signal.SIGKILL
    tfkit(*words, "--resume").exits(0)
    assert hashes(place / run, STEPS) == hashes(whole, STEPS)
    assert exact(place / run) == exact(whole)


def test_it_is_evaluated_without_its_value_model(whole: Path, place: Path, tfkit: Callable[..., Done]) -> None:
    (place / "critic").rename(place / "gone")
    try:
        done = tfkit("evaluate", "--from", f"whole/checkpoints/step-{STEPS:06d}", "--json", "carbon.enabled=false")
    finally:
        (place / "gone").rename(place / "critic")
    found, trained = done.exits(0).document["metrics"], evaluations(whole)[STEPS]
    assert {name: found[name] for name in trained} == pytest.approx(trained)


def test_the_gold_score_is_what_predict_says_of_the_last_class(whole: Path, place: Path) -> None:
    """Texts of any length in any batch are scored so. The fixture `whole` makes the folder."""
    assert whole.is_dir()
    texts = ["the cat", "a dog sat on the mat and ran", "Straße", "fast " * 40]
    loaded = load(str(place / "judge"))
    judge = GoldModel(Companion("gold", loaded.model, "judge", "a" * 64, tokenizer=loaded.codec))
    found = judge.scores([*texts, ""], 2)
    said = predict([{"text": text} for text in texts], start=str(place / "judge"), all_labels=True)
    assert found[:4] == pytest.approx([one["probabilities"]["yes"] for one in said], abs=1e-5)
    assert len({round(score, 6) for score in found[:4]}) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["objective.gold=base"], ["objective.gold: base is not a text classifier"]),
        (["objective.gold=labels"], ["objective.gold: labels is not a text classifier, but gives a text any number of labels"]),
        (["objective.value=base"], ["objective.value: base cannot judge", "it does not give a text one number"]),
        # not the value model that begins as it
        (["objective.reward=base", "objective.value=null"], ["objective.reward: base cannot judge"]),
    ],
)
def test_a_model_that_does_not_fit_is_refused(place: Path, tfkit: Callable[..., Done], words: list[str], said: list[str]) -> None:
    shutil.copytree("judge/checkpoints/step-000004", "labels", ignore=shutil.ignore_patterns("manifest.json"), dirs_exist_ok=True)
    edit_config(place / "labels", problem_type="multi_label_classification")
    tfkit("finetune", "ppo.yaml", "--run", "refused", *words).exits(4, *said)


def test_fields_that_do_not_fit_are_refused(tfkit: Callable[..., Done]) -> None:
    for word, reason in {
        "objective={kind: ppo, value: critic}": "objective: nothing is rewarded",
        "objective={kind: ppo, rules: [{kind: valid_json}]}": "objective.value: there is no reward model from which the value model",
        "data.pretraining=null": "objective.ptx_weight: there is no text to weigh",
        "objective.ptx_weight=0": "data.pretraining: ppo reads no such text with these fields",
        "objective.kl_target=null": "objective.kl_horizon: only objective.kl_target reads it",
        "objective.beta=0": "objective.beta: objective.kl_target multiplies it",
        "training.batch_size=6": "training.batch_size: does not divide the 8 responses",
    }.items():
        tfkit("check", "ppo.yaml", word).exits(2, reason)
