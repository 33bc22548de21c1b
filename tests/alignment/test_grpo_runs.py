"""GRPO in the real commands: trained, killed within an iteration, resumed, stopped, evaluated, replayed; and what is refused."""

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_files import read_json, read_rows, write_rows
from tiny_runs import Done, exact, hashes, kept, pretrain, run_here, strike
from tiny_worlds import evaluations, steps

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
    run_here(["finetune", "grpo.yaml", "--run", "whole"], place).exits(0)
    return place / "whole"


def test_the_log_has_the_figures_of_each_iteration(whole: Path) -> None:
    found = steps(whole)
    for name in ("reward", "accuracy", "kl", "kl_k3", "entropy", "response_length", "ended", "zero_advantages"):
        values = [step[name] for step in found]
        assert len({*values[:4]}) == len({*values[4:]}) == 1, name  # those of one iteration
    assert (found[0]["kl"], found[0]["largest_ratio"], found[0]["clip_fraction"]) == (0.0, 1.0, 0.0)
    assert found[4]["largest_ratio"] == 1.0
    assert found[4]["kl"] != 0.0
    assert all(1 <= step["response_length"] <= 5 for step in found)
    assert [sorted(one) for one in evaluations(whole).values()] == [["accuracy", "ended", "kl", "response_length", "reward"]] * 2
    third, last = (read_json(whole / "checkpoints" / f"step-00000{step}" / "training_state" / "state.json") for step in (3, 8))
    assert third["loader"]["iteration"] == 0
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
    words = ("--run", "planned", "--dry-run", "training.steps=12")
    tfkit("finetune", "grpo.yaml", *words).exits(0, "12 steps of 4 rows", "0.5 epochs")
    shown = tfkit("inspect", "grpo.yaml", "--json", "--show", "9").document
    assert len(shown["rows"]) == 2  # the prompts of an iteration
    assert all(token["kind"] != "loss" for row in shown["rows"] for token in row["tokens"])


def test_evaluate_gives_the_scores_of_the_training(whole: Path, tfkit: Callable[..., Done], place: Path) -> None:
    result = tfkit("evaluate", "--from", "whole/checkpoints/step-000008", "--predictions", "said.jsonl", "--json").exits(0).document
    last = evaluations(whole)[8]
    assert result["metrics"] == pytest.approx(last, abs=1e-6)
    assert result["examples"] == 5
    assert set(result["intervals"]) >= {"reward", "kl"}
    lines = read_rows(place / "said.jsonl")
    assert [line["place"] for line in lines] == [f"others.jsonl:{number}" for number in range(1, 6)]
    assert sum(line["reward"] for line in lines) / 5 == pytest.approx(last["reward"])
    assert all(line["reward"] >= ("a" in line["response"]) for line in lines)


def test_a_prompt_without_room_counts_as_wrong(whole: Path, tfkit: Callable[..., Done], place: Path) -> None:
    """Such a prompt has no response, so it changes neither reward nor kl, but is counted; without rules no response is right or wrong."""
    prompts = (("the cat ", 0), ("the cat sat " * 9, 1), ("the cat sat ", 1))
    write_rows(place / "long.jsonl", [{"prompt": prompt, "answer": answer} for prompt, answer in prompts])
    words = ["--data", "long.jsonl", "--json", "--predictions", "said.jsonl"]
    said = "1 row that the model cannot process counts as wrong: 1 no room for a response (first long.jsonl:2)"
    result = tfkit("evaluate", "--from", "whole/checkpoints/step-000008", *words).exits(0, said).document
    first, last, lost = read_rows(place / "said.jsonl")
    assert (result["examples"], result["lost"]) == (3, {"no room for a response": 1})
    assert lost == {"place": "long.jsonl:2", "lost": "no room for a response"}
    assert result["metrics"]["reward"] == pytest.approx((first["reward"] + last["reward"]) / 2)
    assert result["metrics"]["accuracy"] == pytest.approx(sum(line["reward"] == 1.5 for line in (first, last)) / 3)
    tfkit("finetune", "grpo.yaml", "--run", "long", "data.validation=[{path: long.jsonl}]").exits(3, "long.jsonl:2: ")


def test_a_lora_policy_has_its_base_as_reference(tfkit: Callable[..., Done], place: Path) -> None:
    words = ["training.adapter={rank: 4}", "training.steps=5", "optimizer.lr=0.1"]
    tfkit("finetune", "grpo.yaml", "--run", "lora", *words).exits(0)
    found = steps(place / "lora")
    assert (found[0]["kl"], found[0]["largest_ratio"], found[4]["largest_ratio"]) == (0.0, 1.0, 1.0)
    assert abs(found[4]["kl"]) > 1e-4
    last = evaluations(place / "lora")[5]
    assert tfkit("evaluate", "--from", "lora", "--json").document["metrics"] == pytest.approx(last, abs=1e-5)


def test_the_best_checkpoint_is_within_the_limit(tfkit: Callable[..., Done], place: Path) -> None:
    """Without a limit, the checkpoint with the highest reward is the best; with a limit below the KL of every checkpoint, none is."""
    words = ["finetune", "grpo.yaml", "checkpoint.every=4"]
    best = tfkit(*words, "--run", "free", "--json").document["best"]
    scores = evaluations(place / "free").values()
    assert (best["metric"], best["value"]) == ("reward", max(one["reward"] for one in scores))
    done = tfkit(*words, "--run", "limited", "--json", "objective.kl_limit=1e-6")
    found = done.document["best"]
    assert (found["value"] if found else None) == max((one["reward"] for one in scores if one["kl"] <= 1e-6), default=None)
    assert ("no checkpoint is the best one, and commands take the newest" in done.err) == (found is None)


def test_a_run_whose_every_checkpoint_exceeds_the_limit_says_so(tfkit: Callable[..., Done]) -> None:
    words = ["optimizer.lr=0.1", "objective.kl_limit=1e-9", "checkpoint.every=8", "evaluation.every=8"]
    done = tfkit("finetune", "grpo.yaml", "--run", "beyond", "--json", *words).exits(0, "exceeds objective.kl_limit")
    assert done.document["best"] is None


def test_a_run_that_runs_away_ends_with_6_and_its_last_checkpoint(tfkit: Callable[..., Done], place: Path) -> None:
    said = ("step 5: the KL of the policy", "objective.kl_stop")
    tfkit("finetune", "grpo.yaml", "--run", "away", "optimizer.lr=1", "objective.kl_stop=0.01").exits(6, *said)
    assert kept(place / "away") == ["step-000003"]


def test_an_unhealthy_step_within_an_iteration_is_replayed(tfkit: Callable[..., Done]) -> None:
    tfkit("finetune", "grpo.yaml", "--run", "broken", "optimizer={kind: adamw, lr: 1e30, clip_norm: null}").exits(6)
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
        (["objective.rules=[{kind: python, function: '~nobody-here/mine.py:f', allow_code: true}]"], 2, "mine.py does not exist"),
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
    write_rows(place / "answerless.jsonl", [{"prompt": "the cat"}])
    write_rows(place / "messages.jsonl", [{"messages": [{"role": "user", "content": "hi"}], "answer": 1}])
    assert re.search(message, run_here(["finetune", "grpo.yaml", "--run", "refused", "--threads", "1", *words]).exits(code).err)
    assert not [*place.glob("refused/checkpoints/*")]
