"""Sweeps: trials of a tiny recipe, compared, stopped, resumed and refused."""

import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_files import read_json, write_rows
from tiny_runs import WORDS, Before, assert_same_bits, hashes, records, run_here, write_corpus

import tfkit
from tfkit.engine.chains.sweep_plan import Grid, OptunaSearch
from tfkit.engine.request.run_totals import Trial
from tfkit.errors import DataError, ModelError, UnhealthyError, UsageError
from tfkit.hub import find_checkpoint
from tfkit.recipe import RecipeText
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.search_space import Axis, SearchSpace, read_space
from tfkit.run.listing import read_run
from tfkit.training.step import Stepper

pytestmark = pytest.mark.usefixtures("in_place")

RECIPE: dict[str, Any] = {
    "model": {"preset": "gpt2", "decoder_layers": 1, "dim": 16, "num_heads": 2, "context_length": 16},
    "tokenizer": {"vocab_size": 300},
    "data": {"train": [{"path": "corpus"}], "validation": 0.3},
    "training": {"steps": 2, "batch_size": 4, "precision": "fp32"},
    "evaluation": {"max_tokens": 100},
    "carbon": {"enabled": False},
}
SPACE = {"optimizer.lr": [1e-4, 1e-2], "optimizer.betas": [[0.9, 0.95], [0.5, 0.6]]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    write_corpus(folder / "corpus")
    return folder


@pytest.fixture(scope="module")
def whole(place: Path) -> Any:
    """A grid of four trials that was never stopped, in the folder `whole`."""
    with contextlib.chdir(place):
        return tfkit.sweep(RECIPE, SPACE, run="whole", threads=1)


def test_a_grid_is_tried_whole_and_the_best_trial_is_the_sweeps_checkpoint(whole: Any) -> None:
    assert (whole.status, whole.metric, whole.planned_trials) == ("finished", "loss", 4)
    assert [one["values"] for one in whole.trials] == [
        {"optimizer.lr": lr, "optimizer.betas": betas} for lr in SPACE["optimizer.lr"] for betas in SPACE["optimizer.betas"]
    ]
    best = min(whole.trials, key=lambda one: one["score"])
    assert whole.best["trial"] == best["trial"]
    assert best["values"]["optimizer.lr"] == 1e-2
    assert find_checkpoint("whole").resolve() == Path(whole.best["checkpoint"])
    assert (whole.energy_kwh, whole.selection_factor) == (None, None)  # carbon is off
    assert vars(whole).keys() - {"document"} == whole.to_dict().keys() - {"schema_version"}


def test_a_trial_is_the_run_that_it_would_be_alone(whole: Any) -> None:
    changes = {"optimizer.lr": 1e-2, "optimizer.betas": [0.5, 0.6]}
    tfkit.pretrain(RECIPE, changes, run="alone", threads=1)
    assert_same_bits(Path("alone"), Path("whole/trial-004"), 2)


def test_a_sweep_that_is_stopped_goes_on_with_the_trial_that_was_at_work(whole: Any) -> None:
    """Stopped in the second trial, and resumed by the command of any run."""
    asked = 0

    def enough() -> bool:
        nonlocal asked
        asked += 1
        return asked > 12

    stopped = tfkit.sweep(RECIPE, SPACE, run="halved", threads=1, should_stop=enough)
    assert stopped.status == "stopped"
    assert 0 < len(stopped.trials) < 4
    run_here(["resume", "halved", "--threads", "1"]).exits(0)
    document = read_json(Path("halved/run.json"))
    assert [one["status"] for one in document["trials"].values()] == ["finished"] * 4
    for trial in document["trials"]:
        assert hashes(Path("halved", trial), 2) == hashes(Path("whole", trial), 2)


def test_a_trial_that_fails_is_counted_and_the_others_go_on() -> None:
    result = tfkit.sweep(RECIPE, {"model.init.std": [0.02, 1e30, 0.03]}, run="failing", threads=1)
    assert [one["status"] for one in result.trials] == ["finished", "failed", "finished"]
    assert "the loss is nan" in result.trials[1]["error"]
    assert result.best["trial"] in ("trial-001", "trial-003")
    listed = run_here(["runs", "failing", "--json"]).exits(0).document["runs"]
    assert [(one["kind"], one["status"]) for one in listed[:3]] == [("sweep", "finished"), ("pretrain", "finished"), ("pretrain", "failed")]
    again = run_here(["resume", "failing", "--threads", "1", "--json"]).exits(0).document  # the result again: nothing is tried anew
    assert again["trials"] == result.trials


def test_a_trial_that_fails_has_no_score_for_the_sampler() -> None:
    """Even if it was evaluated before."""
    seen: list[list[float | None]] = []

    def fail(_: Stepper, step: int, *__: object) -> None:
        if step == 2 and len(seen) == 1:
            raise UnhealthyError("the loss is nan")

    recipe = {**RECIPE, "evaluation": {"every": 1, "max_tokens": 100}, "checkpoint": {"every": 1}}
    with Before(Stepper, "take", fail), Before(OptunaSearch, "propose", lambda _, done: seen.append([score for _, score in done])):
        result = tfkit.sweep(recipe, {"optimizer.lr": "1e-4..1e-2"}, trials=2, run="odd", threads=1)
    assert (result.trials[0]["status"], seen[1]) == ("failed", [None])


def test_a_trial_that_is_out_of_memory_is_counted_and_the_others_go_on() -> None:
    """With micro-batches of a single row, too."""

    def fail(stepper: Stepper, *_: object) -> None:
        if stepper.model.config.dim == 32:
            raise MemoryError

    with Before(Stepper, "_accumulate", fail):
        result = tfkit.sweep(RECIPE, {"model.dim": [16, 32]}, run="full", threads=1)
    assert [one["status"] for one in result.trials] == ["finished", "failed"]
    assert "out of memory with a single row of 16 tokens" in result.trials[1]["error"]


def test_a_finished_trial_whose_lengthening_failed_is_still_finished(whole: Any, tmp_path: Path) -> None:
    """The sweep took it for unfinished, and for ever repeated its result."""
    shutil.copytree("whole", tmp_path / "copy")
    with contextlib.chdir(tmp_path), pytest.raises(DataError, match=r"corpus: no such file .*, or give the command in the folder"):
        tfkit.resume("copy/trial-001", {"training.steps": 3}, threads=1)
    assert read_run(tmp_path / "copy/trial-001").status == "failed"
    with contextlib.chdir(tmp_path):
        again = tfkit.resume("copy", threads=1)
    assert (again.status, again.metric) == ("finished", whole.metric)
    assert [one["values"] for one in again.trials] == [one["values"] for one in whole.trials]
    assert read_run(tmp_path / "copy/trial-001").status == "finished"


@pytest.mark.thorough
def test_a_budget_bounds_all_trials_together() -> None:
    """Of time, which needs no meter: a trial that is slow in its first step uses it up, and a larger one lets the sweep go on."""
    limit = {"carbon.budget_seconds": 0.01}
    stopped = tfkit.sweep(RECIPE, SPACE, limit, run="bounded", threads=1)
    assert (stopped.status, stopped.stopped_by, stopped.best) == ("stopped", "carbon.budget_seconds", None)
    assert len(stopped.trials) == 1
    run_here(["resume", "bounded", "--threads", "1"]).exits(2, "carbon.budget_seconds", "Give a larger budget to continue")
    document = run_here(["resume", "bounded", "carbon.budget_seconds=1000", "--threads", "1", "--json"]).exits(0).document
    assert (document["status"], [one["status"] for one in document["trials"]]) == ("finished", ["finished"] * 4)
    assert document["seconds"] > 0.01


CHAIN = {
    "stages": {"base": RECIPE, "tune": {"from": "base", **{name: RECIPE[name] for name in ("data", "evaluation", "training", "carbon")}}}
}


def test_a_budget_of_a_stage_is_named_as_the_sweep_takes_it() -> None:
    """By the refusal, and by the command that continues the sweep: without the name of the stage it would be refused."""
    limit = {"tune.carbon.budget_seconds": 0.01}
    assert tfkit.sweep(CHAIN, {"tune.optimizer.lr": [1e-4, 1e-2]}, limit, run="limited", threads=1).status == "stopped"
    assert re.match(r"tfkit resume limited tune\.carbon\.budget_seconds=\S+$", str(read_run(Path("limited")).resume))
    refused = run_here(["resume", "limited"]).refuses(2, "stage tune: limited: carbon.budget_seconds: ").err
    assert re.search(r"such as tune\.carbon\.budget_seconds=\S+$", refused.rstrip())


@pytest.mark.thorough
def test_a_sweep_of_stages_is_one_of_runs_within_runs() -> None:
    """Listed, verified and used as a model as any other; the score is that of the last stage."""
    result = tfkit.sweep(CHAIN, {"tune.optimizer.lr": [1e-4, 1e-2]}, run="chains", threads=1)
    assert [one["status"] for one in result.trials] == ["finished"] * 2
    assert result.best["values"] == {"tune.optimizer.lr": 1e-2}
    assert find_checkpoint("chains").resolve() == Path(result.best["checkpoint"])
    listed = run_here(["runs", "chains", "--json"]).exits(0).document["runs"]
    assert [Path(one["run"]).name for one in listed] == ["chains", *["trial-001", "base", "tune"], *["trial-002", "base", "tune"]]
    assert (listed[0]["steps"], listed[0]["checkpoints"]) == (8, 4)
    assert len(run_here(["verify", "chains", "--json"]).exits(0).document["checkpoints"]) == 4


def test_what_is_refused_before_the_first_trial(whole: Any) -> None:
    resumed, rates = {"run": "whole", "resume": True}, {"optimizer.lr": SPACE["optimizer.lr"]}
    for message, space, run in (
        ("holds a sweep", SPACE, {"run": "whole"}),
        (r"different sweep from the one.*optimizer\.lr=0\.5,0\.7", {"optimizer.lr": [0.5, 0.7]}, resumed),
        (r"different sweep .*: optimizer\.betas=.* is not given", rates, resumed),
        (r"trial with optimizer\.lr=-1", {"optimizer.lr": [1e-3, -1]}, {"run": "none"}),
        ("held-out rows", SPACE, {"overrides": {"data.validation": None}, "run": "none"}),
        ("with `trials`", {"optimizer.lr": "1e-4..1e-2"}, {"run": "none"}),
        ("a single value cannot be varied in a sweep", {"optimizer": 4}, {"run": "none"}),
        ("a single value cannot be varied in a sweep", {"optimizer": {"kind": "adamw"}}, {"run": "none"}),
        ("optimizer.lr: the list of its values is empty", {"optimizer.lr": []}, {"run": "none"}),
        ("too many", {"training.seed": range(40), "optimizer.lr": [0.1 / n for n in range(1, 41)]}, {"run": "none"}),
    ):
        with pytest.raises(UsageError, match=message):
            tfkit.sweep(RECIPE, space, **run)
    with pytest.raises(UsageError, match="holds the runs of a sweep"):
        tfkit.pretrain(RECIPE, run="whole")
    assert not Path("none").exists()


def test_a_recipe_whose_name_is_that_of_a_free_field_is_compared_as_any_other(tmp_path: Path) -> None:
    """A continued sweep may change the section carbon, but not all that a file such as low-carbon.yaml holds."""
    recipe, sweep = tmp_path / "low-carbon.yaml", ["--run", tmp_path / "run", "optimizer.lr=1e-3,1e-2"]
    recipe.write_text(json.dumps(RECIPE), encoding="utf-8")
    run_here(["sweep", recipe, *sweep]).exits(0)
    recipe.write_text(json.dumps(RECIPE | {"carbon": {"enabled": False, "country": "FRA"}}), encoding="utf-8")
    run_here(["sweep", recipe, *sweep, "--resume"]).exits(0, f"no effect:\n  carbon.country in {recipe}")
    recipe.write_text(json.dumps(RECIPE | {"tokenizer": {"vocab_size": 290}}), encoding="utf-8")
    run_here(["sweep", recipe, *sweep, "--resume"]).refuses(2, "this is a different sweep from the one that was started here: tokenizer")


def test_trials_that_are_not_scored_alike_are_warned_of(tmp_path: Path) -> None:
    recipe = tmp_path / "lengths.yaml"
    recipe.write_text(json.dumps(RECIPE), encoding="utf-8")
    warned = "data.sequence_length: the trials are not scored alike, so their loss may not be comparable"
    done = run_here(["sweep", recipe, "--run", tmp_path / "lengths", "data.sequence_length=8,16"]).exits(0)
    assert warned in done.err
    assert "not scored alike" not in run_here(["sweep", recipe, "--run", tmp_path / "rates", "optimizer.lr=1e-3,1e-2"]).exits(0).err
    run_here(["sweep", recipe, "--run", tmp_path / "planned", "data.sequence_length=8,16", "--dry-run"]).exits(0, warned)


def test_a_better_evaluation_that_was_not_saved_is_said() -> None:
    """Of a single run and of the trials of a sweep alike: the scores that are compared are those of checkpoints."""
    Path("recipe.yaml").write_text(json.dumps(RECIPE), encoding="utf-8")
    rows = [{"text": f"{WORDS[n % 7]} {WORDS[n % 5]}", "label": ["no", "yes"][n % 3 % 2]} for n in range(60)]
    write_rows(Path("labelled.jsonl"), rows)
    long = ["training.steps=8", "evaluation.every=2", "schedule={kind: constant, warmup_steps: 8}", "--threads", "1", "--quiet"]
    classes = ["objective={kind: classification}", "data.train=[{path: labelled.jsonl}]", "evaluation.metric=accuracy"]
    said = ""
    for command, *words in (
        ["sweep", "optimizer.lr=3,1e-3", "--run", "unsaved"],
        ["pretrain", "optimizer.lr=3", "--run", "unsaved-alone"],
        ["pretrain", "optimizer.lr=3", "--run", "saved", "checkpoint.every=2"],
        ["pretrain", "optimizer.lr=0.5", "--run", "by-accuracy", *classes],
    ):
        said += run_here([command, "recipe.yaml", *long, *words]).exits(0).err
    for run, metric, sign in (
        *(("unsaved/trial-001", "loss", 1), ("unsaved/trial-002", "loss", 1), ("unsaved-alone", "loss", 1)),
        *(("saved", "loss", 1), ("by-accuracy", "accuracy", -1)),
    ):
        scores = {line["step"]: sign * line["evaluation"][metric] for line in records(Path(run)) if "evaluation" in line}
        best = min(scores, key=lambda step: scores[step])
        warned = re.search(rf"^warning: \S*{run}: {metric} was best in step (\d), .* best checkpoint is of step 8, ", said, re.MULTILINE)
        is_lost = scores[best] < scores[8] and run != "saved"
        assert (warned is not None and warned[1]) == (is_lost and str(best)), run
    assert said.count("was best in step") >= 2, "the rate is too high for a last step that is the best"


def test_what_a_finished_sweep_says_and_one_without_a_finished_trial(whole: Any, tmp_path: Path) -> None:
    """A change comes too late; and without a finished trial a sweep is no model."""
    run_here(["resume", "whole", "carbon.country=FRA"]).exits(0, "whole: finished, so these changes have no effect:\n  carbon.country=FRA")
    assert "warning" not in run_here(["resume", "whole"]).exits(0).err
    (tmp_path / "run.json").write_text(json.dumps({**read_json(Path("whole/run.json")), "best_trial": None}), encoding="utf-8")
    with pytest.raises(ModelError, match="no trial of this sweep is finished"):
        find_checkpoint(tmp_path)


def test_the_sampler_is_a_function_of_the_seed_and_the_trials_before() -> None:
    axes = (Axis("optimizer.lr", ends=(1e-5, 1e-2)), Axis("model.decoder_layers", ends=(2, 8), whole=True), Axis("kind", ("a", "b")))

    def draw(seed: int) -> list[dict[str, Any]]:
        search, done = OptunaSearch(axes, 8, seed, False), []
        while (values := search.propose(done)) is not None:
            score = None if len(done) == 2 else abs(values["optimizer.lr"] - 1e-3)  # the third one failed
            done.append((Trial(f"trial-{len(done)}", values), score))
        return [dict(trial.values) for trial, _ in done]

    found = draw(1)
    assert len(found) == 8
    assert found == draw(1) != draw(2)
    assert len({json.dumps(values) for values in found}) == 8
    assert all(1e-5 <= one["optimizer.lr"] <= 1e-2 and 2 <= one["model.decoder_layers"] <= 8 for one in found)


def test_a_sampler_is_not_needed_where_all_combinations_are_asked_for(whole: Any) -> None:
    grid = Grid((Axis("a", ("1", "2")), Axis("b", ("x", "y"))))
    assert grid.count == 4
    assert grid.propose([(Trial("first", {"a": "1", "b": "x"}), 0.5)]) == {"a": "1", "b": "y"}
    assert tfkit.sweep(RECIPE, SPACE, trials=9, run="whole", resume=True).planned_trials == 4


# -- which of key=value a sweep varies


def space_of(*words: str) -> SearchSpace:
    return read_space(words, {}, lambda _: RecipeText(Path("tiny.yaml"), json.dumps(RECIPE)))


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("optimizer.lr=1e-3,3e-3", [1e-3, 3e-3]),
        ("optimizer.lr=[1e-3, 3e-3]", [1e-3, 3e-3]),
        ("optimizer.betas=[[0.9, 0.95], [0.9, 0.99]]", [[0.9, 0.95], [0.9, 0.99]]),
        ("optimizer={kind: adamw, lr: 1e-3}, {kind: muon}", [{"kind": "adamw", "lr": 1e-3}, {"kind": "muon"}]),
        ("generation.prompts.0='a, b',c", ["a, b", "c"]),
        ("optimizer.clip_norm=null,1", [None, 1]),
    ],
)
def test_several_values(word: str, values: list[object]) -> None:
    space = space_of("training.steps=2", word)
    assert [*space.axes[0].values] == values
    assert (space.fixed, space.size) == ({"training.steps": 2}, len(values))
    assert SearchSpace.of(space.fixed, space.document()) == space


@pytest.mark.parametrize("word", ["optimizer.betas=[0.9, 0.95]", "generation.prompts=[a, b]", "data.train=[{path: x}]"])
def test_a_list_that_the_field_takes_as_one_value_is_one(word: str) -> None:
    assert space_of(word, "training.seed=1,2").fixed == parse_overrides([word])
    with pytest.raises(UsageError, match="nothing varies"):
        space_of(word)


@pytest.mark.parametrize("words", [["5e-4", "1e-3,3e-3"], ["5e-4,6e-4", "[1e-3, 3e-3]"], ["[5e-4, 6e-4]", "1e-3,3e-3"]])
def test_the_last_word_about_a_field_counts(words: list[str]) -> None:
    given = [f"optimizer.lr={word}" for word in words]
    assert space_of(*given) == SearchSpace({}, (Axis("optimizer.lr", (1e-3, 3e-3)),))
    with pytest.raises(UsageError, match="nothing varies"):
        space_of(*given, "optimizer.lr=1e-3")


def test_ranges() -> None:
    space = space_of("optimizer.lr=1e-5..1e-2", "model.decoder_layers=2..8", "training.seed=1,2", "optimizer.lr=1e-4..3e-4")
    assert space.axes == (
        Axis("model.decoder_layers", ends=(2, 8), whole=True),
        Axis("training.seed", (1, 2)),
        Axis("optimizer.lr", ends=(1e-4, 3e-4)),  # the last one wins
    )
    assert (space.size, space.axes[2].is_logarithmic, Axis("x", ends=(1e-5, 1e-2)).is_logarithmic) == (None, False, True)
    assert SearchSpace.of({}, {"sft.training.steps": [1, 2], "dpo.training.epochs": [1, 2]}).size == 4  # of two stages


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.lr=1e-2..1e-5"], "smaller end"),
        (["optimizer.lr=1..1e999"], "both finite"),
        (["training.seed=1,,2"], "between two commas"),
        (["training.steps=2,3", "training.tokens=10,20"], "training.steps and training.tokens: two lengths of one training"),
        *((word, "twice; write each once") for word in (["optimizer.lr=1e-3,3e-3,0.001"], ["optimizer.clip_norm=1,1.0"])),
        (["optimizer.kind=[adamw, muon, adamw]"], "twice; write each once"),
    ],
)
def test_what_no_space_is(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        space_of(*words)
