"""GRPO in the real commands: trained, killed within an iteration, resumed, stopped, evaluated, replayed; and what is refused."""

import contextlib
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_files import read_rows, write_rows
from tiny_runs import Done, exact, hashes, pretrain, records, run_here, run_tfkit, strike

from tfkit.alignment import rollout_loader

STEPS = 8
RECIPE = """
# A recipe for tests: four steps an iteration, of two passes.
model: {from: base}
data: {train: [{path: prompts.jsonl}], validation: [{path: others.jsonl}]}
objective:
  {kind: grpo, rules: [{kind: contains, text: a}, {kind: number, weight: 0.5}], prompts: 2, completions: 4, inner_epochs: 2,
   max_new_tokens: 5, beta: 0.1}
optimizer: {lr: 1e-2}
schedule: {kind: constant}
training: {steps: 8, batch_size: 4, micro_batch_size: 2, precision: fp32, log_every: 1}
checkpoint: {every: 3, keep: 9}
evaluation: {every: 4}
carbon: {enabled: false}
"""


@pytest.fixture(scope="module")
def place(base: Path) -> Path:
    """Return a folder with prompts, the recipe, and a run to start from, whose model has dropout."""
    for name, count in (("prompts", 12), ("others", 5)):
        rows = [{"prompt": f"the cat {'sat ' * (number % 3)}", "answer": number} for number in range(count)]
        write_rows(base / f"{name}.jsonl", rows)
    (base / "grpo.yaml").write_text(RECIPE, encoding="utf-8")
    words = ["training.steps=4", "model.dropout.residual=0.2", "model.context_length=24"]
    pretrain(base / "base", base / "tiny.yaml", *words).exits(0)
    return base


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """Return the run that was never stopped."""
    with contextlib.chdir(place):
        run_tfkit(place, ["finetune", "grpo.yaml", "--run", "whole"]).exits(0)
    return place / "whole"


def test_the_log_has_the_figures_of_each_iteration(whole: Path) -> None:
    steps = [record for record in records(whole) if "loss" in record]
    figures = ("reward", "accuracy", "kl", "kl_k3", "entropy", "response_length", "ended", "zero_advantages")
    for name in figures:
        values = [step[name] for step in steps]
        assert len({*values[:4]}) == len({*values[4:]}) == 1, name  # those of one iteration
    assert (steps[0]["kl"], steps[0]["largest_ratio"], steps[0]["clip_fraction"]) == (0.0, 1.0, 0.0)
    assert steps[4]["largest_ratio"] == 1.0
    assert steps[4]["kl"] != 0.0
    assert all(1 <= step["response_length"] <= 5 for step in steps)
    evaluations = [record["evaluation"] for record in records(whole) if "evaluation" in record]
    assert [sorted(one) for one in evaluations] == [["accuracy", "ended", "kl", "response_length", "reward"]] * 2
    state = json.loads((whole / "checkpoints" / "step-000003" / "training_state" / "state.json").read_text(encoding="utf-8"))
    assert state["loader"]["iteration"] == 0
    last = json.loads((whole / "checkpoints" / "step-000008" / "training_state" / "state.json").read_text(encoding="utf-8"))
    assert "loader" not in last


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(strike(signal.SIGTERM, 2, rollout_loader, "sample"), id="stopped while sampling"),
        pytest.param(strike(signal.SIGKILL, 12), id="killed between passes"),
    ],
)
def test_f02_f03_a_run_that_was_ended_anywhere_goes_on_with_the_same_bits(
    fault: Callable[[], None], whole: Path, tfkit: Callable[..., Done], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert tfkit("finetune", "grpo.yaml", "--run", str(run), before=fault).code in (-9, 143)
    tfkit("resume", str(run)).exits(0)
    assert hashes(run, STEPS) == hashes(whole, STEPS)
    assert exact(run) == exact(whole)


def test_a_plan_counts_the_prompts_of_an_epoch_once(tfkit: Callable[..., Done]) -> None:
    """Twelve prompts, with four responses each and two passes over them, are 24 steps of four."""
    done = tfkit("finetune", "grpo.yaml", "--run", "planned", "--dry-run", "training.steps=12").exits(0)
    assert "12 steps of 4 rows" in done.err
    assert "0.5 epochs" in done.err
    done = tfkit("inspect", "grpo.yaml", "--json", "--show", "9")
    shown = json.loads(done.out)
    assert len(shown["rows"]) == 2  # the prompts of an iteration
    assert all(token["kind"] != "loss" for row in shown["rows"] for token in row["tokens"])


def test_evaluate_gives_the_scores_of_the_training(whole: Path, tfkit: Callable[..., Done], place: Path) -> None:
    done = tfkit("evaluate", "--from", "whole/checkpoints/step-000008", "--predictions", "said.jsonl", "--json").exits(0)
    result = json.loads(done.out)
    last = [record["evaluation"] for record in records(whole) if "evaluation" in record][-1]
    assert result["metrics"] == pytest.approx(last, abs=1e-6)
    assert result["examples"] == 5
    assert set(result["intervals"]) >= {"reward", "kl"}
    lines = read_rows(place / "said.jsonl")
    assert [line["place"] for line in lines] == [f"others.jsonl:{number}" for number in range(1, 6)]
    assert sum(line["reward"] for line in lines) / 5 == pytest.approx(last["reward"])
    assert all(line["reward"] >= ("a" in line["response"]) for line in lines)


def test_a_prompt_without_room_counts_as_wrong(whole: Path, tfkit: Callable[..., Done], place: Path) -> None:
    """Such a prompt has no response, so it changes neither reward nor kl, but is counted; without rules no response is right or wrong."""
    (place / "long.jsonl").write_text(
        '{"prompt": "the cat ", "answer": 0}\n{"prompt": "'
        + "the cat sat " * 9
        + '", "answer": 1}\n{"prompt": "the cat sat ", "answer": 1}\n',
        encoding="utf-8",
    )
    words = ["evaluate", "--from", "whole/checkpoints/step-000008", "--data", "long.jsonl", "--json"]
    done = tfkit(*words, "--predictions", "said.jsonl").exits(0)
    result, lines = json.loads(done.out), read_rows(place / "said.jsonl")
    assert "1 row that the model cannot process counts as wrong: 1 no room for a response (first long.jsonl:2)" in done.err
    assert (result["examples"], result["lost"]) == (3, {"no room for a response": 1})
    assert lines[2] == {"place": "long.jsonl:2", "lost": "no room for a response"}
    assert result["metrics"]["reward"] == pytest.approx((lines[0]["reward"] + lines[1]["reward"]) / 2)
    assert result["metrics"]["accuracy"] == pytest.approx(sum(line["reward"] == 1.5 for line in lines[:2]) / 3)
    tfkit("finetune", "grpo.yaml", "--run", "long", "data.validation=[{path: long.jsonl}]").exits(3, "long.jsonl:2: ")


def test_a_lora_policy_has_its_base_as_reference(tfkit: Callable[..., Done], place: Path) -> None:
    words = ["training.adapter={rank: 4}", "training.steps=5", "optimizer.lr=0.1"]
    tfkit("finetune", "grpo.yaml", "--run", "lora", *words).exits(0)
    steps = [record for record in records(place / "lora") if "loss" in record]
    assert (steps[0]["kl"], steps[0]["largest_ratio"], steps[4]["largest_ratio"]) == (0.0, 1.0, 1.0)
    assert abs(steps[4]["kl"]) > 1e-4
    last = [record["evaluation"] for record in records(place / "lora") if "evaluation" in record][-1]
    done = tfkit("evaluate", "--from", "lora", "--json")
    assert json.loads(done.out)["metrics"] == pytest.approx(last, abs=1e-5)


def test_the_best_checkpoint_is_within_the_limit(tfkit: Callable[..., Done], place: Path) -> None:
    """Without a limit, the checkpoint with the highest reward is the best; with a limit below the KL of every checkpoint, none is."""
    words = ["finetune", "grpo.yaml", "checkpoint.every=4"]
    done = tfkit(*words, "--run", "free", "--json")
    best = json.loads(done.out)["best"]
    evaluations = {record["step"]: record["evaluation"] for record in records(place / "free") if "evaluation" in record}
    assert best["metric"] == "reward"
    assert best["value"] == max(one["reward"] for one in evaluations.values())
    within = [one["reward"] for one in evaluations.values() if one["kl"] <= 1e-6]
    done = tfkit(*words, "--run", "limited", "--json", "objective.kl_limit=1e-6")
    found = json.loads(done.out)["best"]
    assert (found["value"] if found else None) == max(within, default=None)
    assert ("no checkpoint is the best one, and commands take the newest" in done.err) == (found is None)


def test_a_run_whose_every_checkpoint_exceeds_the_limit_says_so(tfkit: Callable[..., Done], place: Path) -> None:
    words = ["optimizer.lr=0.1", "objective.kl_limit=1e-9", "checkpoint.every=8", "evaluation.every=8"]
    done = tfkit("finetune", "grpo.yaml", "--run", "beyond", "--json", *words).exits(0, "exceeds objective.kl_limit")
    assert json.loads(done.out)["best"] is None


def test_a_run_that_runs_away_ends_with_6_and_its_last_checkpoint(tfkit: Callable[..., Done], place: Path) -> None:
    done = tfkit("finetune", "grpo.yaml", "--run", "away", "optimizer.lr=1", "objective.kl_stop=0.01").exits(6)
    assert "step 5: the KL of the policy" in done.err
    assert "objective.kl_stop" in done.err
    assert sorted(path.name for path in (place / "away" / "checkpoints").glob("step-*")) == ["step-000003"]


def test_an_unhealthy_step_within_an_iteration_is_replayed(tfkit: Callable[..., Done], place: Path) -> None:
    words = ["optimizer={kind: adamw, lr: 1e30, clip_norm: null}", "schedule={kind: constant}"]
    tfkit("finetune", "grpo.yaml", "--run", "broken", *words).exits(6)
    done = tfkit("replay", "broken").exits(0)
    assert "step 2" in done.out + done.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["training.batch_size=6"], 2, "training.batch_size: does not divide the 8 responses of an iteration"),
        (["objective.rules=[]"], 2, "objective.rules"),
        (["objective.completions=1"], 2, "objective.completions"),
        (["objective.rules=[{kind: python, function: 'mine.py:f'}]"], 2, "allow_code"),
        (["objective.rules=[{kind: python, function: 'mine.py:f', allow_code: true}]"], 2, "mine.py does not exist"),
        (["objective.max_new_tokens=24"], 4, "leave no room for a prompt"),
        (["data.sequence_length=6", "objective.max_new_tokens=6"], 4, "leave no room for a prompt in a row of 6"),
        (["objective.max_new_tokens=21"], 3, "prompts.jsonl:1: the prompt has .* leaves room for only 3"),
        (["data.train=[{path: answerless.jsonl}]"], 3, "answerless.jsonl:1: there is no answer for a rule"),
        (["data.train=[{path: messages.jsonl}]"], 4, "messages.jsonl:1: .* messages, but .* has no chat template"),
        (["objective.chat=true"], 4, "prompts.jsonl:1: objective.chat is set, but .* has no chat template"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_is_refused_says_where_and_what_to_do(words: list[str], code: int, message: str, place: Path, in_place: None) -> None:
    (place / "answerless.jsonl").write_text('{"prompt": "the cat"}\n', encoding="utf-8")
    (place / "messages.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}], "answer": 1}\n', encoding="utf-8")
    assert re.search(message, run_here(["finetune", "grpo.yaml", "--run", "refused", "--threads", "1", *words]).exits(code).err)
    assert not [*place.glob("refused/checkpoints/*")]
