"""A recipe with stages: all errors of all stages at once, overrides that begin with a stage's name, and what names an earlier stage."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_recipes import NEARLY, Strategy, as_yaml
from tiny_runs import run_here

from tfkit.recipe import Chain, RecipeError, RecipeText, read_chain
from tfkit.recipe.dump import recipe_document
from tfkit.recipe.reading.overrides import parse_overrides

CHAIN = """# Three stages.
stages:
  base:
    model: {preset: gpt2, decoder_layers: 2, dim: 16, num_heads: 2, context_length: 16}
    data: {train: [{stdlib: true}]}
    training: {steps: 4}
  tune:
    from: base
    data: {train: [{stdlib: packages}]}
    objective: {kind: classification}
    training: {epochs: 2}
  small:
    model: {preset: gpt2, decoder_layers: 1, dim: 16, num_heads: 2, context_length: 16}
    tokenizer: {path: base}
    data: {train: [{stdlib: true}]}
    objective: {kind: distillation, teacher: base, of: {kind: causal_lm}}
    training: {steps: 4}
"""


def read(text: str, *overrides: str) -> Chain:
    return read_chain(RecipeText(Path("chain.yaml"), text), parse_overrides(overrides))


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        read(text, *overrides)
    return str(caught.value).splitlines()


def test_a_stage_is_a_recipe_and_may_name_earlier_ones() -> None:
    chain = read(CHAIN)
    assert chain.names == ("base", "tune", "small")
    assert [stage.uses for stage in chain.stages] == [(), ("base",), ("base",)]
    assert [stage.recipe.model.start is not None for stage in chain.stages] == [False, True, False]
    tune, small = (stage.placed(Path("chain.yaml"), Path("runs/x")) for stage in chain.stages[1:])
    assert tune.read().model.start == "runs/x/base"
    recipe = small.read()
    assert (recipe.tokenizer.path, recipe.objective.companion_paths) == ("runs/x/base", {"teacher": "runs/x/base"})
    assert chain.stages[1].recipe.model.start == "base", "the chain itself names no folder"


def test_the_model_of_an_earlier_stage_holds_the_rows() -> None:
    """It is checked before that stage is trained."""
    longer, names = "tune.data.sequence_length=17", ("base", "tune", "small")
    assert read(CHAIN, "tune.data.sequence_length=16").stages[1].recipe.data.sequence_length == 16
    said = "data.sequence_length: model.context_length holds 16 tokens: set this to 16 or less, or leave it out"
    assert problems(CHAIN, longer) == [f"overrides: tune.{said}"]
    later = CHAIN + "  last: {from: tune, data: {train: [{stdlib: true}], sequence_length: 17}, training: {steps: 1}}\n"
    assert problems(later)[0].endswith(f"last.{said}")
    assert read(CHAIN, "base.model.position={kind: rotary}", "tune.model={from: base, context_length: 20}", longer).names == names
    assert read(CHAIN, "base.model.position={kind: relative}", longer).names == names
    assert read(CHAIN, "tune.model.from=elsewhere", longer).names == names


INSTRUCT = """
stages:
  sft: {model: {from: hub:a/b}, data: {train: [{path: a}]}, objective: {kind: chat}, training: {epochs: 1}}
  reward: {from: sft, data: {train: [{path: a}]}, objective: {kind: reward}, training: {epochs: 1}}
  ppo: {from: sft, data: {train: [{path: a}]}, objective: {kind: ppo, reward: reward, value: reward}, training: {steps: 2}}
"""


def test_every_further_model_of_an_objective_may_be_a_stage_whose_model_can_judge() -> None:
    chain = read(INSTRUCT)
    assert chain.stages[2].uses == ("sft", "reward")
    placed = chain.stages[2].placed(Path("chain.yaml"), Path("runs/x")).read()
    assert (placed.model.start, placed.objective.companion_paths) == ("runs/x/sft", {"reward": "runs/x/reward", "value": "runs/x/reward"})
    [wrong] = problems(INSTRUCT, "ppo.objective.value=ppo")
    assert "ppo.objective.value: ppo is this stage itself" in wrong
    for field in ("reward", "value", "gold"):
        [wrong] = problems(INSTRUCT, f"ppo.objective.{field}=sft")
        said = "the stage sft trains a model of chat, which gives a text no score: name a stage of reward or classification"
        assert wrong.endswith(f"ppo.objective.{field}: {said}")
    feedback = "ppo.objective={kind: ai_feedback, policy: reward, judge: sft, of: {kind: reward}}"
    named = [line.partition(" trains ")[0].partition("objective.")[2] for line in problems(INSTRUCT, feedback)]
    assert named == ["policy: the stage reward", "judge: the stage sft"]
    feedback = "reward.objective={kind: ai_feedback, policy: sft, judge: elsewhere, of: {kind: reward}}"
    assert read(INSTRUCT, feedback).stages[2].uses == ("sft", "reward")


def test_a_response_leaves_room_for_a_prompt_in_the_model_of_an_earlier_stage() -> None:
    grpo = "objective: {kind: grpo, rules: [{kind: number}]}, training: {steps: 2}"
    chain = CHAIN + f"  grpo: {{from: base, data: {{train: [{{path: a}}]}}, {grpo}}}\n"
    batch = "grpo.training.batch_size=16"
    assert read(chain, batch, "grpo.objective.max_new_tokens=15").names[-1] == "grpo"
    for words, room in (((), 16), (("grpo.data.sequence_length=8",), 8)):
        [wrong] = problems(chain, batch, f"grpo.objective.max_new_tokens={room}", *words)
        assert f"grpo.objective.max_new_tokens: {room} tokens of a response leave no room for a prompt in a row of {room}: " in wrong


def test_the_resolved_chain_is_the_same_chain() -> None:
    chain = read(CHAIN, "tune.training.steps=7")
    again = read(chain.resolved)
    assert [stage.recipe for stage in again.stages] == [stage.recipe for stage in chain.stages]
    assert [stage.uses for stage in again.stages] == [stage.uses for stage in chain.stages]
    assert recipe_document(again.stages[0].recipe, None)["optimizer"]["kind"] == "adamw", "defaults are written out"


def test_an_override_begins_with_the_name_of_a_stage() -> None:
    chain = read(CHAIN, "tune.training.steps=7", "tune.from=elsewhere", "small.objective.teacher=tune", "base.training.steps=9")
    base, tune, small = (stage.recipe for stage in chain.stages)
    assert (base.training.steps, tune.training.steps, tune.training.epochs) == (9, 7, None)
    assert (tune.model.start, chain.stages[1].uses) == ("elsewhere", ())
    assert (small.objective.companion_paths, chain.stages[2].uses) == ({"teacher": "tune"}, ("base", "tune"))
    names = "this recipe has stages: start with one of base, tune, small, and name a field of it"
    assert problems(CHAIN, "training.steps=3", "tune=3", "late.training.steps=3", "tune.training.stps=1") == [
        *(f"overrides: {field}: {names}" for field in ("training.steps", "tune", "late.training.steps")),
        "overrides: tune.training.stps: unknown, did you mean steps",
    ]


def test_another_checkpoint_takes_the_place_of_a_pinned_one() -> None:
    pinned = CHAIN.replace("from: base\n", f"model: {{from: there, sha256: {'a' * 64}}}\n")
    assert read(pinned).stages[1].recipe.model.sha256 == "a" * 64
    assert read(pinned, "tune.model.from=other").stages[1].recipe.model.sha256 is None
    last = read(CHAIN, "tune.from=first", "tune.model={from: second}", "tune.model.from=third")
    assert last.stages[1].recipe.model.start == "third"


def test_the_errors_of_all_stages_come_at_once_each_with_its_place() -> None:
    text = CHAIN.replace("steps: 4}\n  tune", "step: 4}\n  tune").replace("from: base\n", "from: small\n")
    text = text.replace("{epochs: 2}", "{epochs: -2}").replace("teacher: base", "teacher: small")
    named = "which has no model yet: name an earlier stage or, for a folder, ./small"
    assert problems(text) == [
        "chain.yaml:6:16: base.training.step: unknown, did you mean steps",
        f"chain.yaml:8:11: tune.model.from: small is a later stage, {named}",
        "chain.yaml:11:24: tune.training.epochs: must be greater than 0, not -2",
        f"chain.yaml:16:46: small.objective.teacher: small is this stage itself, {named}",
    ]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("stages: {}", "chain.yaml:1:1: stages: needs the name of each stage"),
        ("stages: [a]", "chain.yaml:1:1: stages: needs the name of each stage"),
        ("stages: {a: 3}", "chain.yaml:1:10: stages.a: a stage is a recipe"),
        (f"{CHAIN}training: {{steps: 3}}\n", "chain.yaml:18:1: training: a recipe with stages has no other sections"),
        (CHAIN.replace("  base:", "  ../base:"), "chain.yaml:3:3: stages.../base: the name of a stage is a word"),
        (CHAIN.replace("  base:", "  a.b:"), "chain.yaml:3:3: stages.a.b: the name of a stage is a word"),
        (CHAIN.replace("  base:", "  checkpoints:"), "chain.yaml:3:3: stages.checkpoints: a stage cannot have this name"),
        (CHAIN.replace("  small:", "  Tune:"), "chain.yaml:12:3: stages.Tune: differs from the name tune only in capitals"),
        (CHAIN.replace("  small:", "  tune:"), "chain.yaml:12:3: stages.tune: given twice"),
        (CHAIN.replace("    from: base\n", "    from: base\n    model: {from: x}\n"), "chain.yaml:8:5: tune.from: given twice"),
    ],
)
def test_what_is_no_chain(text: str, wanted: str) -> None:
    assert any(line.startswith(wanted) for line in problems(text)), problems(text)


def test_check_looks_for_files_but_not_for_the_stages(in_tmp_path: None) -> None:
    Path("chain.yaml").write_text(CHAIN, encoding="utf-8")
    assert run_here(["check", "chain.yaml", "tune.training.epochs=1"]).exits(0).out == "chain.yaml: no errors\n"
    said = run_here(["check", "chain.yaml", "tune.from=gone"]).exits(2).err
    assert said.startswith("command line: tune.model.from: 'gone': no such folder")
    run_here(["inspect", "chain.yaml"]).exits(2, "chain.yaml:2:1: stages: a recipe without stages is needed here")


CHAINS: Strategy = st.fixed_dictionaries({"stages": st.dictionaries(st.sampled_from(["a", "b", "data", "", "A", "é"]), NEARLY, max_size=3)})


@given(
    chain=CHAINS, words=st.lists(st.sampled_from(["a.training.steps=3", "a.from=b", "b.objective.kind=chat", "a=", "=", "a.b.c=[", "x"]))
)
@settings(max_examples=60, deadline=None)
def test_any_chain_is_read_or_refused_with_places(chain: dict[str, object], words: list[str]) -> None:
    source = RecipeText(Path("chain.yaml"), as_yaml(chain).decode())
    if not source.has_stages:  # not YAML
        return
    try:
        found = read_chain(source, parse_overrides(words))
    except RecipeError as error:
        places = {problem.place.file for problem in error.problems}
    else:
        places = set()
        assert read_chain(RecipeText(Path("again.yaml"), found.resolved)).names == found.names
    assert places <= {"chain.yaml", ""}
