"""An objective that is registered from outside works in every command: the schema, data, training, resuming, evaluation, inspection."""

import contextlib
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_files import read_json, read_rows, write_rows
from tiny_runs import Done, exact, hashes, pretrain, records, run_tfkit, strike
from toy_objective import register_toy

from tfkit.run.safetensors_header import read_header

STEPS = 6
RECIPE = """
# A recipe for tests.
model: {from: base}
data: {train: [{path: pairs.jsonl}], validation: [{path: others.jsonl}]}
objective: {kind: toy_preference, reference: base, beta: 2, critic: base}
optimizer: {lr: 1e-2}
training: {steps: 6, batch_size: 4, micro_batch_size: 2, precision: fp32, log_every: 1}
checkpoint: {every: 2}
evaluation: {every: 3, metric: accuracy}
carbon: {enabled: false}
"""


@pytest.fixture(scope="module")
def place(base: Path) -> Path:
    """Write rows whose preferred answer says cat, and the recipe; train a run to start from."""
    random = np.random.default_rng(1)
    for name, count in (("pairs", 24), ("others", 8)):
        words = random.choice(["the", "dog", "sat", "mat", "ran"], (count, 6)).tolist()
        rows = [{"prompt": f"{' '.join(one[:4])} ", "chosen": f"cat {one[4]}", "rejected": f"{one[4]} {one[5]}"} for one in words]
        write_rows(base / f"{name}.jsonl", rows)
    (base / "toy.yaml").write_text(RECIPE, encoding="utf-8")
    pretrain(base / "base", base / "tiny.yaml", "training.steps=4").exits(0)
    return base


@pytest.fixture
def tfkit(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Return a function that runs a command in that folder, in a process in which the objective is registered."""
    monkeypatch.chdir(place)

    def run(*words: str, before: Callable[[], object] = lambda: None) -> Done:
        return run_tfkit(place, [*words], lambda: (register_toy(), before()))

    return run


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """Return the run that was never stopped."""
    with contextlib.chdir(place):
        run_tfkit(place, ["finetune", "toy.yaml", "--run", "whole", "--threads", "1"], register_toy).exits(0)
    return place / "whole"


def test_the_schema_has_it_where_it_is_registered_and_nowhere_else(tfkit: Callable[..., Done], place: Path) -> None:
    schema = tfkit("check", "--schema").document
    assert schema["$defs"]["Recipe"]["properties"]["objective"]["discriminator"]["mapping"]["toy_preference"] == "#/$defs/ToySection"
    tfkit("check", "toy.yaml").exits(0)
    tfkit("check", "toy.yaml", "objective.beta=-1", "evaluation.metric=f1").exits(2, "objective.beta: must be greater than 0")
    run_tfkit(place, ["check", "toy.yaml"]).exits(2, "toy.yaml:5:19: objective.kind: 'toy_preference' is none of ")


def test_it_trains_from_the_reference_towards_the_preferred_answers(whole: Path) -> None:
    first, *_, last = (record for record in records(whole) if "loss" in record)
    assert first["preference_loss"] == pytest.approx(np.log(2), abs=1e-6)  # the policy is the reference
    assert (first["chosen_first"], first["largest_margin"]) == (0.0, 0.0)
    assert last["preference_loss"] < 0.6
    assert (0.5 < last["chosen_first"] <= 1.0, last["largest_margin"] > 0.1) == (True, True)
    *_, scores = (record["evaluation"] for record in records(whole) if "evaluation" in record)
    assert [*scores] == ["loss", "accuracy"]
    assert scores["accuracy"] > 0.8


def test_it_names_its_companion_and_pins_it(whole: Path, place: Path, tfkit: Callable[..., Done]) -> None:
    facts = read_json(whole / "checkpoints" / f"step-{STEPS:06d}" / "tfkit.json")
    start, reference, critic = facts["lineage"]["parents"]
    assert (start["role"], reference["role"], critic["role"]) == ("start", "reference", "critic")
    assert reference["sha256"] == start["sha256"]
    assert f"reference_sha256: {reference['sha256']}" in (whole / "recipe.yaml").read_text()
    said = f"objective.reference: base has changed since this recipe was run: the SHA-256 of its weights was {'a' * 64}"
    tfkit("finetune", "toy.yaml", "--run", "other", f"objective.reference_sha256={'a' * 64}").exits(4, said)


def test_its_critic_learns_beside_the_model_and_lies_in_the_training_state_alone(whole: Path, tfkit: Callable[..., Done]) -> None:
    steps = [record for record in records(whole) if "loss" in record]
    assert steps[-1]["critic_loss"] < steps[0]["critic_loss"] - 0.1
    assert all(0 < step["critic_grad_norm"] < float("inf") for step in steps)
    checkpoint = whole / "checkpoints" / f"step-{STEPS:06d}"
    before = read_header(whole.parent / "base" / "checkpoints" / "step-000004" / "model.safetensors").keys()
    assert read_header(checkpoint / "model.safetensors").keys() == before
    saved = read_header(checkpoint / "training_state" / "optimizer.safetensors").keys()
    weights = {name.removeprefix("companions/critic/weights/") for name in saved if name.startswith("companions/critic/weights/")}
    assert "embedding.tokens.weight" in weights
    assert {f"companions/critic/optimizer/{name}/exp_avg" for name in weights} <= saved
    tfkit("average", "whole", "--last", "2", "--out", "mean").exits(0)
    assert not (whole.parent / "mean" / "training_state").exists()


def test_a_stopped_run_goes_on_to_the_same_weights(whole: Path, place: Path, tfkit: Callable[..., Done]) -> None:
    words = ("finetune", "toy.yaml", "--run", "stopped", "--threads", "1")
    tfkit(*words, before=strike(signal.SIGKILL, 7)).exits(-signal.SIGKILL)
    tfkit(*words, "--resume").exits(0)
    assert hashes(place / "stopped", STEPS) == hashes(whole, STEPS)
    assert exact(place / "stopped")[-1] == exact(whole)[-1]


def test_it_is_evaluated_as_in_training_row_by_row(whole: Path, tfkit: Callable[..., Done], place: Path) -> None:
    words = ("--predictions", "predictions.jsonl", "--json", "--threads", "1", "carbon.enabled=false")
    result = tfkit("evaluate", "--from", "whole", *words).exits(0).document
    trained = next(record["evaluation"] for record in reversed(records(whole)) if "evaluation" in record)
    assert result["metrics"] == pytest.approx(trained)
    assert result["intervals"].keys() == {"loss", "accuracy"}
    rows = read_rows(place / "predictions.jsonl")
    assert [row["place"] for row in rows] == [f"others.jsonl:{number}" for number in range(1, 9)]
    assert np.mean([row["margin"] > 0 for row in rows]) == result["metrics"]["accuracy"]


def test_its_rows_are_shown(tfkit: Callable[..., Done]) -> None:
    document = tfkit("inspect", "toy.yaml", "--show", "2", "--json").exits(0).document
    assert document["first_step"]["targets"].keys() == {"preference", "critic"}
    assert document["first_step"]["targets"]["preference"] == 4
    assert len(document["rows"]) == 4
    assert any(token["token"].endswith("cat") and token["kind"] == "loss" for token in document["rows"][0]["tokens"])


def test_nothing_is_written_into_the_folder_of_the_companion(tfkit: Callable[..., Done]) -> None:
    tfkit("finetune", "toy.yaml", "--run", "base/checkpoints/inner").exits(2, "which this command reads")
