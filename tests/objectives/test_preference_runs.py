"""Reward models and DPO in the real commands: trained, killed and resumed, evaluated, used for predictions, and inspected."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_files import parse_rows, read_json, read_rows, receipt, write_rows
from tiny_runs import Done, exact, hashes, pretrain, records, run_here, strike

STEPS = 12
Run = tuple[str, Path, Done]
BASE = ["model.context_length=32", "model.init.std=0.2", "model.dropout={residual: 0.1}", "training.steps=2"]
RECIPE = """
# A recipe for tests.
model: {from: base}
data: {train: [{path: pairs.jsonl}], validation: [{path: others.jsonl}]}
objective: {kind: KIND}
optimizer: {lr: 3e-2}
training: {steps: 12, batch_size: 4, micro_batch_size: 2, precision: fp32, log_every: 1}
checkpoint: {every: 4}
evaluation: {every: 6, metric: accuracy}
carbon: {enabled: false}
"""


@pytest.fixture(scope="module")
def place(base: Path) -> Path:
    """Write rows whose better completion says cat, and train a language model to start from."""
    random = np.random.default_rng(1)
    words = ["the", "dog", "sat", "mat", "ran"]
    for name, count in (("pairs", 24), ("others", 8)):
        drawn = random.choice(words, (count, 6)).tolist()
        rows = [
            {"prompt": " ".join(one[:4]), "chosen": f" cat {one[4]}", "rejected": f" {one[4]} {one[5]} {one[4]}"[: 5 + 4 * (number % 3)]}
            for number, one in enumerate(drawn)
        ]
        rows += [{"prompt": "a tie", "chosen": "same", "rejected": "same"}] if name == "pairs" else []
        write_rows(base / f"{name}.jsonl", rows)
    for kind in ("reward", "dpo"):
        (base / f"{kind}.yaml").write_text(RECIPE.replace("KIND", kind), encoding="utf-8")
    pretrain(base / "base", base / "tiny.yaml", *BASE).exits(0)
    return base


@pytest.fixture(scope="module", params=["reward", "dpo"])
def run(request: pytest.FixtureRequest, place: Path) -> Run:
    """Return a run of this kind that was never stopped."""
    done = run_here(["finetune", f"{request.param}.yaml", "--run", request.param, "--threads", "1"], place).exits(0)
    return request.param, place / request.param, done


def scores(folder: Path) -> list[dict[str, float]]:
    return [record["evaluation"] for record in records(folder) if "evaluation" in record]


@pytest.mark.sampled(2)
def test_it_learns_what_is_better(run: Run, place: Path) -> None:
    kind, folder, done = run
    assert "pairs.jsonl: 1 bad row skipped: 1 equal completions (first pairs.jsonl:25)" in done.err
    before, after = receipt(folder)["before"], scores(folder)[-1]
    losses = [record["loss"] for record in records(folder) if "loss" in record]
    assert after["accuracy"] > 0.9
    assert losses[-1] < losses[0] / 2
    assert after["margin"] > before["margin"]
    if kind == "dpo":
        assert (losses[0], before["loss"]) == pytest.approx((np.log(2), np.log(2)), abs=1e-6)
        assert before["reward_chosen"] == pytest.approx(0, abs=1e-5)


@pytest.mark.sampled(2)
def test_a_killed_run_goes_on_to_the_same_bits(run: Run, tfkit: Callable[..., Done], place: Path) -> None:
    kind, folder, _ = run
    words = ("finetune", f"{kind}.yaml", "--run", f"{kind}-killed")
    tfkit(*words, before=strike(signal.SIGKILL, 14)).exits(-signal.SIGKILL)
    tfkit(*words, "--resume").exits(0)
    assert hashes(place / f"{kind}-killed", STEPS) == hashes(folder, STEPS)
    assert exact(place / f"{kind}-killed")[-1] == exact(folder)[-1]


@pytest.mark.sampled(2)
def test_it_is_evaluated_as_in_its_training(run: Run, tfkit: Callable[..., Done], place: Path) -> None:
    """The evaluation uses the same reference, which tfkit.json names."""
    kind, folder, _ = run
    done = tfkit("evaluate", "--from", kind, "--predictions", f"{kind}.jsonl", "--json", "carbon.enabled=false").exits(0)
    metrics = done.document["metrics"]
    found = read_rows(place / f"{kind}.jsonl")
    assert metrics == pytest.approx(scores(folder)[-1], abs=1e-5)
    assert np.mean([row["margins"][0] > 0 for row in found]) == metrics["accuracy"]


def test_its_rows_are_shown_with_both_sides(run: Run, tfkit: Callable[..., Done]) -> None:
    kind, _, _ = run
    shown = tfkit("inspect", f"{kind}.yaml", "--show", "1", "--json").document
    better, worse = ("".join(token["token"] for token in row["tokens"]).replace("Ġ", "") for row in shown["rows"])
    assert "cat" in better
    assert "cat" not in worse
    assert [row["place"].partition(", ")[2] for row in shown["rows"]] == ["choice 0", "choice 1"]
    assert shown["first_step"]["targets"] == {kind: 4}
    if kind == "dpo":
        tokens = [token for token in shown["rows"][0]["tokens"] if token["kind"] != "padding"]
        answer = [token["token"] for token in tokens if token["kind"] == "loss"]
        assert [token["token"] for token in tokens[-len(answer) :]] == answer
        assert ("".join(answer[:-1]).replace("Ġ", "")[:3], answer[-1]) == ("cat", "<|endoftext|>")  # the end has a loss, too
    else:
        assert [row["label"] for row in shown["rows"]] == [1, 2]


@pytest.fixture
def demonstrations(place: Path, tfkit: Callable[..., Done]) -> Callable[[str], float]:
    """Return a function that predicts the mean reward of the demonstrations by a checkpoint."""
    rows = read_rows(place / "pairs.jsonl")[:24]
    write_rows(place / "asked.jsonl", [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows])

    def mean(start: str) -> float:
        done = tfkit("predict", "--from", start, "--data", "asked.jsonl", "carbon.enabled=false").exits(0)
        return float(np.mean([one["prediction"] for one in parse_rows(done.out)]))

    return mean


def test_a_reward_is_predicted_with_demonstrations_at_0(run: Run, tfkit: Callable[..., Done], demonstrations: Any) -> None:
    kind, folder, _ = run
    if kind == "dpo":
        tfkit("predict", "--from", kind, "--data", "pairs.jsonl").exits(2, "this objective predicts no label of a row")
        return
    assert abs(demonstrations("reward/checkpoints/step-000012")) < 1e-5
    assert read_json(folder / "checkpoints" / "step-000012" / "tfkit.json")["demonstrations"] == 24


def test_a_mean_of_models_has_the_mean_of_their_shifts(run: Run, tfkit: Callable[..., Done], demonstrations: Any) -> None:
    """So the mean score of the demonstrations is far nearer to 0 than without a shift, or than the checkpoints' means to each other."""
    if run[0] != "reward":
        return
    done = tfkit("average", "reward", "--last", "2", "--out", "mean", "--json").exits(0)
    steps = sorted((run[1] / "checkpoints").glob("step-*"))[-2:]
    facts, before, newest = (read_json(folder / "tfkit.json") for folder in (Path("mean"), *steps))
    shifts = [newest["reward_shift"], before["reward_shift"]]
    assert facts["reward_shift"] == done.document["reward_shift"] == sum(shifts) / 2
    derived = dict.fromkeys(("averaged", "lineage", "reward_shift"))
    assert facts | derived == newest | derived
    mean = abs(demonstrations("mean"))
    assert mean < 0.2 * min(abs(shifts[0] - shifts[1]), abs(facts["reward_shift"])), (mean, shifts)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("words", [["training.adapter={rank: 2}"], ["training.precision=bf16"], ["model.context_length=24"]])
def test_the_reference_of_an_adapter_and_of_bf16_is_the_first_model(tfkit: Callable[..., Done], place: Path, words: list[str]) -> None:
    name = words[0].partition("=")[0]
    tfkit("finetune", "dpo.yaml", "--run", name, "training.steps=2", *words).exits(0)
    first: dict[str, Any] = next(record for record in records(place / name) if "loss" in record)
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-2 if "bf16" in words[0] else 1e-6)
    result = tfkit("evaluate", "--from", name, "--json", "carbon.enabled=false", "evaluation.bootstrap=null")
    assert result.document["metrics"]["loss"] == pytest.approx(scores(place / name)[-1]["loss"], abs=2e-2)


def test_what_it_was_compared_with_must_be_there(tfkit: Callable[..., Done], place: Path, run: Run) -> None:
    if run[0] != "dpo":
        return
    (place / "base").rename(place / "moved")
    done = tfkit("evaluate", "--from", "dpo", "carbon.enabled=false")
    (place / "moved").rename(place / "base")
    without_its_base = "was trained from, with which its answers are compared: base: there is no such folder"
    done.exits(4, "the model that dpo/checkpoints/step-0000", without_its_base)
    unnamed = tfkit("evaluate", "dpo.yaml", "--from", "base", "carbon.enabled=false")
    unnamed.exits(4, "does not name the model that the training started from")


def test_it_starts_from_a_model(tfkit: Callable[..., Done]) -> None:
    said = "dpo trains a finished model, never random weights: set model.from, or give --from CKPT"
    tfkit("pretrain", "tiny.yaml", "--run", "none", "objective={kind: dpo}").exits(2, said)


def test_an_adapter_cannot_add_the_token_that_a_reward_model_needs(tfkit: Callable[..., Done]) -> None:
    """This holds for merged adapters, too: the remedy is another initial model, or no adapter."""
    tfkit("finetune", "reward.yaml", "--run", "none", "training.adapter={targets: [q_proj], merge: true}").exits(2, "train all weights")
    said = ("has no entry in its vocabulary for 1 tokens that this objective needs", "train without an adapter")
    tfkit("finetune", "reward.yaml", "--run", "none", "training.adapter={targets: [q_proj]}").exits(2, *said)
