"""Reward models and DPO in the real commands: trained, killed and resumed, evaluated, used for predictions, and inspected."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_files import parse_rows, read_json, read_rows, receipt, write_rows
from tiny_runs import Done, exact, hashes, records, run_tfkit, strike

STEPS = 12
BASE = """
model: {preset: gpt2, decoder_layers: 2, dim: 16, num_heads: 2, context_length: 32, init: {std: 0.2}, dropout: {residual: 0.1}}
tokenizer: {vocab_size: 300}
data: {train: [{path: text.txt}]}
training: {steps: 2, batch_size: 4, precision: fp32}
carbon: {enabled: false}
"""
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
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write rows whose better completion says cat, and train a language model to start from."""
    folder = tmp_path_factory.mktemp("preferences")
    random = np.random.default_rng(1)
    words = ["the", "dog", "sat", "mat", "ran"]
    (folder / "text.txt").write_text("\n".join(" ".join(random.choice(words, 8)) for _ in range(80)), encoding="utf-8")
    for name, count in (("pairs", 24), ("others", 8)):
        drawn = random.choice(words, (count, 6)).tolist()
        rows = [
            {"prompt": " ".join(one[:4]), "chosen": f" cat {one[4]}", "rejected": f" {one[4]} {one[5]} {one[4]}"[: 5 + 4 * (number % 3)]}
            for number, one in enumerate(drawn)
        ]
        rows += [{"prompt": "a tie", "chosen": "same", "rejected": "same"}] if name == "pairs" else []
        write_rows(folder / f"{name}.jsonl", rows)
    (folder / "base.yaml").write_text(BASE, encoding="utf-8")
    for kind in ("reward", "dpo"):
        (folder / f"{kind}.yaml").write_text(RECIPE.replace("KIND", kind), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tfkit(place: Path) -> Callable[..., Done]:
    """Return a function that runs a command in that folder."""
    patch = pytest.MonkeyPatch()
    patch.chdir(place)

    def run(*words: str, before: Callable[[], object] | None = None) -> Done:
        threads = [] if words[0] == "inspect" else ["--threads", "1"]
        return run_tfkit(place, [*words, *threads], before)

    run("pretrain", "base.yaml", "--run", "base").exits(0)
    yield run
    patch.undo()


@pytest.fixture(scope="module", params=["reward", "dpo"])
def run(request: pytest.FixtureRequest, place: Path, tfkit: Callable[..., Done]) -> tuple[str, Path, Done]:
    """Return a run of this kind that was never stopped."""
    done = tfkit("finetune", f"{request.param}.yaml", "--run", request.param).exits(0)
    return request.param, place / request.param, done


def scores(folder: Path) -> list[dict[str, float]]:
    return [record["evaluation"] for record in records(folder) if "evaluation" in record]


@pytest.mark.sampled(2)
def test_it_learns_what_is_better(run: tuple[str, Path, Done], place: Path) -> None:
    kind, folder, done = run
    assert "pairs.jsonl: 1 bad row skipped: 1 equal completions (first pairs.jsonl:25)" in done.err
    before = receipt(folder)["before"]
    losses = [record["loss"] for record in records(folder) if "loss" in record]
    assert scores(folder)[-1]["accuracy"] > 0.9
    assert losses[-1] < losses[0] / 2
    assert scores(folder)[-1]["margin"] > before["margin"]
    if kind == "dpo":
        assert losses[0] == pytest.approx(np.log(2), abs=1e-6)
        assert before["loss"] == pytest.approx(np.log(2), abs=1e-6)
        assert before["reward_chosen"] == pytest.approx(0, abs=1e-5)


@pytest.mark.sampled(2)
def test_a_killed_run_goes_on_to_the_same_bits(run: tuple[str, Path, Done], tfkit: Callable[..., Done], place: Path) -> None:
    kind, folder, _ = run
    words = ("finetune", f"{kind}.yaml", "--run", f"{kind}-killed")
    tfkit(*words, before=strike(signal.SIGKILL, 14)).exits(-signal.SIGKILL)
    tfkit(*words, "--resume").exits(0)
    assert hashes(place / f"{kind}-killed", STEPS) == hashes(folder, STEPS)
    assert exact(place / f"{kind}-killed")[-1] == exact(folder)[-1]


@pytest.mark.sampled(2)
def test_it_is_evaluated_as_in_its_training(run: tuple[str, Path, Done], tfkit: Callable[..., Done], place: Path) -> None:
    """The evaluation uses the same reference, which tfkit.json names."""
    kind, folder, _ = run
    done = tfkit("evaluate", "--from", kind, "--predictions", f"{kind}.jsonl", "--json", "carbon.enabled=false").exits(0)
    metrics = done.document["metrics"]
    found = read_rows(place / f"{kind}.jsonl")
    assert metrics == pytest.approx(scores(folder)[-1], abs=1e-5)
    assert np.mean([row["margins"][0] > 0 for row in found]) == metrics["accuracy"]


def test_its_rows_are_shown_with_both_sides(run: tuple[str, Path, Done], tfkit: Callable[..., Done]) -> None:
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


def test_the_reward_of_a_completion_is_predicted_with_demonstrations_at_0(
    run: tuple[str, Path, Done], tfkit: Callable[..., Done], place: Path
) -> None:
    kind, folder, _ = run
    if kind == "dpo":
        tfkit("predict", "--from", kind, "--data", "pairs.jsonl").exits(2, "this objective predicts no label of a row")
        return
    rows = read_rows(place / "pairs.jsonl")[:24]
    asked = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    write_rows(place / "asked.jsonl", asked)
    done = tfkit("predict", "--from", f"{kind}/checkpoints/step-000012", "--data", "asked.jsonl", "carbon.enabled=false").exits(0)
    assert abs(np.mean([json.loads(line)["prediction"] for line in done.out.splitlines()])) < 1e-5
    facts = read_json(folder / "checkpoints" / "step-000012" / "tfkit.json")
    assert facts["demonstrations"] == 24


def test_a_mean_of_reward_models_has_the_mean_of_their_shifts(tfkit: Callable[..., Done], place: Path, run: tuple[str, Path, Done]) -> None:
    """With this shift, the mean score of the demonstrations is nearly 0: far nearer than without a shift, or than the checkpoints' means
    are to each other.
    """
    if run[0] != "reward":
        return
    done = run_tfkit(place, ["average", "reward", "--last", "2", "--out", "mean", "--json"]).exits(0)
    facts = read_json(place / "mean" / "tfkit.json")
    newest, before = (read_json(path / "tfkit.json") for path in sorted((run[1] / "checkpoints").glob("step-*"), reverse=True)[:2])
    shifts = [newest["reward_shift"], before["reward_shift"]]
    assert facts["reward_shift"] == done.document["reward_shift"] == sum(shifts) / 2
    derived = ("averaged", "lineage", "reward_shift")
    assert {name: fact for name, fact in facts.items() if name not in derived} == {
        name: fact for name, fact in newest.items() if name not in derived
    }
    rows = read_rows(place / "pairs.jsonl")[: facts["demonstrations"]]
    write_rows(place / "shown.jsonl", [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows])
    done = tfkit("predict", "--from", "mean", "--data", "shown.jsonl", "carbon.enabled=false")
    mean = abs(np.mean([one["prediction"] for one in parse_rows(done.out)]))
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


def test_what_it_was_compared_with_must_be_there(tfkit: Callable[..., Done], place: Path, run: tuple[str, Path, Done]) -> None:
    if run[0] != "dpo":
        return
    (place / "base").rename(place / "moved")
    done = tfkit("evaluate", "--from", "dpo", "carbon.enabled=false")
    (place / "moved").rename(place / "base")
    without_its_base = "was trained from, with which its answers are compared: base: there is no such folder"
    done.exits(4, "the model that dpo/checkpoints/step-0000", without_its_base)
    tfkit("evaluate", "dpo.yaml", "--from", "base", "carbon.enabled=false").exits(
        4, "does not name the model that the training started from"
    )


def test_it_starts_from_a_model(tfkit: Callable[..., Done]) -> None:
    done = tfkit("pretrain", "base.yaml", "--run", "none", "objective={kind: dpo}").exits(2)
    assert "dpo trains a finished model, never random weights: set model.from, or give --from CKPT" in done.err


def test_an_adapter_cannot_add_the_token_that_a_reward_model_needs(tfkit: Callable[..., Done]) -> None:
    """This holds for merged adapters, too: the remedy is another initial model, or no adapter."""
    tfkit("finetune", "reward.yaml", "--run", "none", "training.adapter={targets: [q_proj], merge: true}").exits(2, "train all weights")
    done = tfkit("finetune", "reward.yaml", "--run", "none", "training.adapter={targets: [q_proj]}").exits(2)
    assert "has no entry in its vocabulary for 1 tokens that this objective needs" in done.err
    assert "train without an adapter" in done.err
