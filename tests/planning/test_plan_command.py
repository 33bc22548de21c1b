"""tfkit plan: its document and table, gates, fine-tunings without a recipe, and chains whose models do not exist yet."""

import re
from pathlib import Path
from typing import Any

import pytest
from tiny_plans import DECODER, recipe_of
from tiny_runs import run_here

import tfkit
from tfkit.recipe.dump import dump_document

OFF = "carbon.enabled=false"


@pytest.fixture(autouse=True)
def _here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    Path("plain.yaml").write_text(dump_document(recipe_of("causal_lm")), encoding="utf-8")
    Path("chain.yaml").write_text(dump_document(chain()), encoding="utf-8")


def test_the_json_document() -> None:
    before = sorted(Path().iterdir())
    gates = ["--fail-if", "emissions_g > 1e9", "--fail-if", "seconds.high > 1e-9"]
    document = run_here(["plan", "plain.yaml", "--json", "--threads", "1", *gates]).exits(8).document
    assert sorted(Path().iterdir()) == before
    assert [gate["failed"] for gate in document["gates"]] == [False, True]
    assert (document["steps"], document["tokens"]) == (4, 4 * 4 * 32)
    assert document["parameters"] == document["trained_parameters"] > 0
    for name in ("seconds", "energy_kwh", "emissions_g"):
        assert 0 < document[name]["low"] <= document[name]["likely"] <= document[name]["high"]
    full = document["full_power"]
    assert full["emissions_g"] == pytest.approx(full["watts"] / 1000 * document["seconds"]["likely"] / 3600 * 475)
    assert document["place"] == "place unknown, world average 475 g/kWh"
    assert document["carbon_status"] == "off"


def test_activation_checkpointing_is_planned_with_less_memory() -> None:
    changes = {"model.decoder_layers": 12, "model.dim": 96}
    plain, less = (tfkit.plan("plain.yaml", {**changes, "training.activation_checkpointing": it}, threads=1) for it in (False, True))
    assert less.memory_bytes < plain.memory_bytes


def test_the_table_lists_the_largest_parts_first() -> None:
    done = run_here(["plan", "plain.yaml", "carbon.intensity_g_per_kwh=100"]).exits(0)
    rows = {line[:14].strip(): line[15:].strip() for line in done.out.splitlines()}
    assert rows["steps"] == "4 in micro-batches of 2 rows, 512 tokens"
    assert rows["FLOPs"].split(": ")[1].startswith("evaluation 54%, backward 31%, forward 15%")
    assert rows["emissions"].endswith("100 g/kWh (carbon.intensity_g_per_kwh)")
    assert {"memory", "disk", "time", "energy", "basis", "ML CO2 Impact"} <= {*rows}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plain.yaml", "--fail-if", "loss > 3"], "unknown metric 'loss'"),
        (["chain.yaml", "--fail-if", "sft.seconds > 3"], "unknown metric 'sft.seconds'.*as in base.seconds .stages: base, scores, ppo"),
        (["plain.yaml", "--stages", "a"], "--stages a: the recipe has no stages"),
        ([], "which training"),
        (["plain.yaml", "training.stepz=1"], "stepz"),
    ],
)
def test_bad_arguments(words: list[str], message: str) -> None:
    assert re.search(message, run_here(["plan", *words]).exits(2).err)


def test_a_fine_tuning_without_a_recipe_is_planned_and_metered_as_the_words_say() -> None:
    words = ["plan", "--from", "base", "--data", "classification.jsonl", OFF, "training.precision=fp32", "--json"]
    plan = run_here(words).exits(0).document
    assert (plan["steps"] > 0, plan["carbon_status"]) == (True, "off")
    assert plan["parameters"] == sum(parameter.numel() for parameter in tfkit.load("base").model.parameters()) + 2 * 24  # of the head


def chain() -> dict[str, Any]:
    """Return a chain of three stages, none of which was run: each later one needs the models of earlier ones."""
    shared = {"training": {"steps": 4, "batch_size": 4, "precision": "fp32"}, "carbon": {"enabled": False}}
    text = {"data": {"train": [{"path": "corpus"}]}}
    ppo = {"kind": "ppo", "reward": "scores", "value": "scores", "rules": [{"kind": "contains", "text": "a"}]}
    ppo |= {"prompts": 4, "completions": 2, "max_new_tokens": 5}
    return {
        "stages": {
            "base": {"model": {**DECODER, "dim": 48}, "tokenizer": {"vocab_size": 290}, **text, **shared},
            "scores": {"from": "base", "data": {"train": [{"path": "reward.jsonl"}]}, "objective": {"kind": "reward"}, **shared},
            "ppo": {"from": "base", "data": {"train": [{"path": "ppo.jsonl"}]}, "objective": ppo, **shared},
        }
    }


def test_the_stages_of_a_chain_are_planned_with_models_that_do_not_exist_yet() -> None:
    before = sorted(Path().iterdir())
    gates = ["--fail-if", "scores.seconds > 1e9", "--fail-if", "ppo.seconds.high > 0", "--fail-if", "steps < 12"]
    document = run_here(["plan", "chain.yaml", "--json", *gates]).exits(8).document
    assert sorted(Path().iterdir()) == before
    stages = document["stages"]
    assert [*stages] == ["base", "scores", "ppo"]
    assert document["steps"] == sum(stage["steps"] for stage in stages.values()) == 12
    assert document["flops"]["total"] == pytest.approx(sum(stage["flops"]["total"] for stage in stages.values()))
    assert stages["ppo"]["parameters"] == stages["base"]["parameters"]
    assert stages["scores"]["parameters"] == stages["base"]["parameters"] + 2 * 48  # its head, and an embedding for padding
    assert stages["ppo"]["flops"]["rollouts"] > 0
    assert [gate["failed"] for gate in document["gates"]] == [False, True, False]
    assert document["assumptions"]["flops"] == stages["base"]["assumptions"]["flops"]
    for name, stage in stages.items():
        assert f"{name}: {stage['assumptions']['seconds']}" in document["assumptions"]["seconds"]
    alone = tfkit.plan("chain.yaml", {"base.training.steps": 2}, stages=["scores"])
    assert (alone.steps, [*alone.stages]) == (4, ["scores"])
    assert alone.stages["scores"].parameters == stages["scores"]["parameters"]


def test_each_stage_of_a_chain_is_probed() -> None:
    """The weights of earlier stages, which were not run, are zeros."""
    plan = tfkit.plan(chain(), probe=2, threads=1)
    assert plan.basis == "probe"
    assert [stage.probe["steps"] if stage.probe else 0 for stage in plan.stages.values()] == [2, 2, 2]
