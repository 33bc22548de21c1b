"""A recipe with stages: a language model, a classifier from it, and a student that it teaches, as one run and by hand."""

import contextlib
import json
import os
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from tiny_files import flip, read_json, receipt, write_rows
from tiny_runs import After, Done, assert_same_bits, run_here, run_tfkit, strike, write_corpus

from tfkit.engine.request.run_totals import stage_facts
from tfkit.engine.tools.audit import audit_runs
from tfkit.engine.training_run import attempt
from tfkit.errors import ModelError
from tfkit.hub import find_checkpoint
from tfkit.recipe import open_recipe, read_chain
from tfkit.run.folder import RunFolder

pytestmark = pytest.mark.usefixtures("in_place")

STEPS = 6
COMMON = """
    training: {steps: 6, batch_size: 4, micro_batch_size: 2, log_every: 2, precision: fp32}
    checkpoint: {every: 2}
    evaluation: {max_tokens: 200}
    carbon: {enabled: false}
"""
SIZES = "dim: 16, num_heads: 2, context_length: 16, init: {std: 0.1}, dropout: {residual: 0.1}"
STAGES = {
    "base": f"""
    model: {{preset: gpt2, decoder_layers: 2, {SIZES}}}
    tokenizer: {{vocab_size: 299}}
    data: {{train: [{{path: corpus}}], validation: 0.3}}""",
    "tune": """
    model: {from: base}
    data: {train: [{path: rows.jsonl}], validation: 0.3}
    objective: {kind: classification}""",
    "small": f"""
    model: {{preset: gpt2, decoder_layers: 1, {SIZES}}}
    tokenizer: {{path: base}}
    data: {{train: [{{path: corpus}}], validation: 0.3}}
    objective: {{kind: distillation, teacher: base, of: {{kind: causal_lm}}}}""",
}
CHAIN = "# A chain for tests.\nstages:\n" + "".join(f"  {name}:{text}{COMMON}" for name, text in STAGES.items())
KINDS = {"base": "pretrain", "tune": "finetune", "small": "pretrain"}
PAIRS = [("cat", "mat"), ("dog", "hat")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    write_corpus(folder / "corpus")
    rows = [{"text": f"the {animal} sat on the {place} {number}", "label": animal} for number in range(20) for animal, place in PAIRS]
    write_rows(folder / "rows.jsonl", rows)
    (folder / "chain.yaml").write_text(CHAIN, encoding="utf-8")
    (folder / "base.yaml").write_text(f"{STAGES['base']}{COMMON}", encoding="utf-8")
    return folder


def tfkit(*words: str, before: Any = None) -> Done:
    threads = [] if words[0] in ("runs", "check", "verify") else ["--threads", "1"]
    return run_tfkit(Path.cwd(), [*words, *threads], before)


def good(*words: str, before: Any = None) -> Done:
    return tfkit(*words, before=before).exits(0)


def refused(*words: str) -> str:
    """Run a command that ends with 2, and return what it says."""
    return run_here(words).refuses(2).err


@pytest.fixture(scope="module")
def whole(place: Path) -> dict[str, Any]:
    """The result of the chain that was never stopped, in the folder `whole`."""
    with contextlib.chdir(place):
        return good("pretrain", "chain.yaml", "--run", "whole", "--json").document


def assert_same_stages(run: str, stages: tuple[str, ...] = ("base", "tune", "small")) -> None:
    for stage in stages:
        assert_same_bits(Path(run, stage), Path("whole", stage), STEPS)


def test_one_process_gives_the_bits_of_the_stages_run_by_hand(whole: dict[str, Any]) -> None:
    for name, text in STAGES.items():
        recipe = "\n".join(line[4:] for line in f"{text}{COMMON}".splitlines())
        Path(f"{name}.yaml").write_text(recipe.replace(": base", ": hand/base"), encoding="utf-8")
        good(KINDS[name], f"{name}.yaml", "--run", f"hand/{name}")
    assert_same_stages("hand")


def test_the_result_has_each_stage_and_the_totals_of_all(whole: dict[str, Any]) -> None:
    assert [*whole["stages"]] == ["base", "tune", "small"]
    assert (whole["status"], whole["steps"]) == ("finished", 3 * STEPS)
    assert whole["checkpoint"] == whole["stages"]["small"]["checkpoint"] == str(Path(f"whole/small/checkpoints/step-{STEPS:06d}").resolve())
    assert whole["evaluation"] == whole["stages"]["small"]["evaluation"]
    chain = receipt("whole")
    assert chain["result"]["stages"]["tune"]["evaluation"] == whole["stages"]["tune"]["evaluation"]
    for name in ("seconds", "train_seconds", "tokens"):
        parts = sum(receipt(f"whole/{stage}")["totals"][name] for stage in STAGES)
        assert chain["totals"][name] == whole[name] == pytest.approx(parts), name
    assert (whole["energy_kwh"], whole["carbon_status"]) == (None, "off")


def test_each_stage_is_a_run_that_names_those_it_came_from(whole: dict[str, Any]) -> None:
    runs = {stage: receipt(f"whole/{stage}")["run_id"] for stage in STAGES}
    for stage, roles in {"small": ["teacher", "tokenizer"], "tune": ["start"]}.items():
        parents = read_json(Path("whole", stage, f"checkpoints/step-{STEPS:06d}/tfkit.json"))["lineage"]["parents"]
        assert [(one["role"], one["path"], one["run_id"]) for one in parents] == [(role, "whole/base", runs["base"]) for role in roles]
    pin = f"sha256: {parents[0]['sha256']}"
    assert pin in Path("whole/tune/recipe.yaml").read_text()
    assert pin not in Path("whole/recipe.yaml").read_text(), "the chain begins anew with another base"
    assert [stage.uses for stage in read_chain(open_recipe("whole/recipe.yaml")).stages] == [(), ("base",), ("base",)]


def test_runs_lists_the_chain_and_its_stages_and_what_takes_a_run_takes_the_last(whole: dict[str, Any]) -> None:
    listed = good("runs", "whole", "--json").document["runs"]
    assert [(one["run"], one["kind"], one["status"], one["steps"]) for one in listed] == [
        ("whole", "stages", "finished", 3 * STEPS),
        *((f"whole/{stage}", KINDS[stage], "finished", STEPS) for stage in STAGES),
    ]
    assert listed[0]["seconds"] == pytest.approx(sum(one["seconds"] for one in listed[1:]))
    verified = [one["path"] for one in good("verify", "whole", "--json").document["checkpoints"]]
    assert verified == [f"whole/{stage}/checkpoints/step-00000{n}" for stage in STAGES for n in (4, 6)]
    assert good("evaluate", "--from", "whole", "--json", "carbon.enabled=false").document["checkpoint"] == verified[-1]


def test_a_finished_chain_repeats_its_result_also_as_a_copy_each_time(whole: dict[str, Any]) -> None:
    """The second time, the stages of a copy seemed to start from other folders than those that their own recipes name."""
    done = good("resume", "whole", "--json")
    assert (done.document, done.err.count("here is its result again")) == (whole, len(STAGES))
    shutil.copytree("whole", "elsewhere")
    for _ in range(2):
        again = good("resume", "elsewhere", "--json").document
        assert (again["status"], Path(again["checkpoint"]).is_relative_to(Path("elsewhere").resolve())) == ("finished", True)
    shutil.rmtree("elsewhere")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_ended_in_its_second_stage_it_goes_on_to_the_same_bits(whole: dict[str, Any], number: int) -> None:
    run = f"ended-{number}"
    done = tfkit("pretrain", "chain.yaml", "--run", run, before=strike(number, 2 * STEPS + 8))
    chain, *stages = good("runs", run, "--json").document["runs"]
    assert [one["status"] for one in stages] == ["finished", "killed" if number == signal.SIGKILL else "stopped"]
    assert (chain["status"], chain["resume"]) == (stages[1]["status"], f"tfkit resume {run}")
    assert chain["steps"] == sum(one["steps"] for one in stages) > STEPS
    assert chain["seconds"] == pytest.approx(sum(one["seconds"] for one in stages))
    if number == signal.SIGTERM:
        said, command = done.exits(143).err.splitlines()[-2:]
        assert (said[:30], command) == ("stage tune: stopped after step", f"tfkit resume {run} --threads 1")
    assert "resuming from step-00000" in good("resume", run).err
    assert_same_stages(run)
    assert receipt(run)["status"] == "finished"


def test_moved_in_a_later_stage_it_goes_on_to_the_same_bits(whole: dict[str, Any]) -> None:
    tfkit("pretrain", "chain.yaml", "--run", "here", before=strike(signal.SIGTERM, 2 * STEPS + 8)).exits(143, "stage tune: stopped after")
    Path("here").rename("there")
    tfkit("resume", "there", before=strike(signal.SIGTERM, 10)).exits(143, "stage small: stopped after")
    Path("there").rename("here")
    Path("here").rename("beyond")
    good("resume", "beyond")
    assert_same_stages("beyond")


@pytest.mark.thorough
def test_a_stop_between_two_stages(whole: dict[str, Any]) -> None:
    def stop(result: Any, *_: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return result

    done = tfkit("pretrain", "chain.yaml", "--run", "between", before=After(attempt, "start_run", stop, 1)).exits(143)
    said, command = done.err.splitlines()[-2:]
    assert said == "stage tune: stopped by SIGTERM: 1 of 3 stages are done, and tune was not started"
    assert not Path("between/tune").exists()
    good(*shlex.split(command)[1:-2])
    assert_same_stages("between")
    Path("between/run.json").write_text("{", encoding="utf-8")
    result = good("resume", "between", "--json").document
    assert (result["status"], result["steps"]) == ("finished", 3 * STEPS), "the chain is in recipe.yaml, too"
    Path("between").rename("moved")
    assert good("resume", "moved", "--json").document["steps"] == 3 * STEPS


def test_a_part_of_the_stages_and_what_may_change_before_the_rest(whole: dict[str, Any]) -> None:
    run = ["pretrain", "chain.yaml", "--run", "part"]
    needs = "--stages: tune needs the stage base, whose run part/base is not there: run both, with --stages base,tune"
    assert refused(*run, "--stages", "tune").splitlines()[-1] == needs
    assert "there is no stage 'tun'; the stages are base, tune, small" in refused(*run, "--stages", "tun")
    missing = refused(*run, "tune.data.train.0.path=gone.jsonl")
    assert missing.startswith("command line: tune.data.train.0.path: 'gone.jsonl': no such file"), "not found after the first stage"
    assert not Path("part").exists()
    first = good(*run, "--stages", "base", "base.training.log_every=3", "--json").document
    assert ([*first["stages"]], first["status"], receipt("part")["status"]) == (["base"], "stopped", "stopped")
    lost = "the last of its stages, small, was not started yet; name one of those that were started: part/base"
    with pytest.raises(ModelError, match=lost):
        find_checkpoint("part")
    assert "the stage base was started here before. Continue with --resume" in refused(*run)
    good(*run, "--stages", "tune")
    assert_same_stages("part", ("tune",))
    for word, wanted in {
        "tune.optimizer.lr=1e-2": "was started with another recipe, so it cannot continue:\n  optimizer.lr: 0.001 in the run, 0.01 now",
        "base.training.steps=8": "stage base: the stage tune has started from its end, so its length cannot change:\n  training.steps: 6",
        "training.steps=8": "command line: training.steps: this recipe has stages: start with one of base, tune, small",
    }.items():
        assert wanted in refused("resume", "part", word)
    Path("less.yaml").write_text(f"stages:\n  base:{STAGES['base']}{COMMON}", encoding="utf-8")
    assert "the stage tune was started here, and the recipe no longer has it" in refused("pretrain", "less.yaml", *run[2:], "--resume")
    assert receipt("part")["given"]["overrides"] == {"base.training.log_every": 3}, "of what was refused nothing is kept"
    last = good("resume", "part", "tune.training.steps=7", "small.training.steps=3", "--json").document
    assert {name: one["steps"] for name, one in last["stages"].items()} == {"base": STEPS, "tune": 7, "small": 3}
    assert (last["status"], last["steps"]) == ("finished", STEPS + 7 + 3)


def test_a_remedy_can_be_pasted_whatever_the_name_of_the_folder() -> None:
    run = Path("my runs", "new")
    run.mkdir(parents=True)
    about = {"schema_version": 1, "run_id": "a", "status": "stopped", "attempts": [], "kind": "stages", "stages": {"base": {}}}
    (run / "run.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(ModelError, match="base, was not started yet; continue with `tfkit resume 'my runs/new'`"):
        find_checkpoint(run)


def test_the_first_stage_may_begin_from_another_checkpoint_with_other_rows(whole: dict[str, Any]) -> None:
    tune, more = STAGES["tune"].replace("base", "nowhere").replace("rows", "none"), STAGES["tune"].replace("base", "tune")
    Path("tuning.yaml").write_text(f"stages:\n  tune:{tune}{COMMON}  more:{more}{COMMON}", encoding="utf-8")
    wrong = "tuning.yaml: the first stage, tune, starts from the checkpoint nowhere: use `tfkit finetune`"
    assert refused("pretrain", "tuning.yaml").strip() == wrong
    assert "use `tfkit pretrain`" in refused("finetune", "chain.yaml")
    words = ["--from", "whole/base", "--data", "rows.jsonl", "--run", "tuned", "--json"]
    stages = good("finetune", "tuning.yaml", *words).document["stages"]
    assert stages["tune"]["evaluation"] == whole["stages"]["tune"]["evaluation"]
    assert stages["more"]["before"]["accuracy"] == stages["tune"]["evaluation"]["accuracy"]


def test_a_stage_that_fails_or_does_not_pass_ends_the_chain() -> None:
    sick = tfkit("pretrain", "chain.yaml", "--run", "sick", "tune.optimizer.lr=1e30", "--json").exits(6)
    assert (sick.err.splitlines()[-1][:12], sick.document["error"]["kind"]) == ("stage tune: ", "unhealthy")
    about = receipt("sick")
    assert (about["status"], about["stages"]["tune"]["status"], Path("sick/small").exists()) == ("failed", "failed", False)
    gates = ["--fail-if", "tune.accuracy < 2", "--fail-if", "base.loss > 1000", "--fail-if", "seconds < 0"]
    result = tfkit("pretrain", "chain.yaml", "--run", "gated", *gates, "--json").exits(8, "failed: tune.accuracy < 2 (it is ").document
    assert ([*result["stages"]], result["status"]) == (["base", "tune"], "stopped")
    assert {one["metric"]: one["failed"] for one in result["gates"]} == {"base.loss": False, "tune.accuracy": True, "seconds": False}
    for gate in ("accuracy > 3", "tune.perplexity > 3", "energy_kwh > 1"):
        assert "--fail-if" in refused("pretrain", "chain.yaml", "--run", "never", "--fail-if", gate)
    of_another = refused("pretrain", "chain.yaml", "--stages", "base", "--run", "never", "--fail-if", "tune.accuracy < 2")
    assert "name STAGE.METRIC, where STAGE is one of base, as in" in of_another  # the gate would pass unjudged
    assert not Path("never").exists()


def test_a_dry_run_plans_what_can_be_planned(whole: dict[str, Any]) -> None:
    done = good("pretrain", "chain.yaml", "--dry-run", "--run", "dry", "tune.training.steps=9")
    assert not Path("dry").exists()
    Path("planned.yaml").write_text(done.out, encoding="utf-8")
    assert "tune.training" not in done.out
    assert good("check", "planned.yaml").out == "planned.yaml: no errors\n"
    assert "steps: 9" in done.out
    assert done.err.count("needs the model of the stage base, which was not run yet") == 2
    document = good("pretrain", "chain.yaml", "--dry-run", "--run", "whole", "--json", "--stages", "tune").document
    assert document["stages"]["tune"]["estimate"]["steps"] == STEPS


def test_folders_of_another_kind_and_in_use(whole: dict[str, Any]) -> None:
    assert "whole: holds the runs of a recipe with stages" in refused("pretrain", "base.yaml", "--run", "whole", "--resume")
    assert "whole/base: holds the checkpoints of a run" in refused("pretrain", "chain.yaml", "--run", "whole/base", "--resume")
    assert "the recipe has no stages; leave it out" in refused("pretrain", "base.yaml", "--run", "single", "--stages", "base")
    named = "name one of its runs: whole/base, whole/tune, whole/small"
    run_here(["average", "whole", "--out", "mean"]).exits(4, f"whole: has no checkpoints of its own; {named}")
    with RunFolder.open(Path("whole"), resume=True, command=None):
        run_here(["resume", "whole"]).exits(5, "this run folder is in use")


def test_deleting_the_unfinished_leaves_a_chain_whose_stages_are_worth_keeping(whole: dict[str, Any]) -> None:
    good("pretrain", "chain.yaml", "--run", "pruned/chain", "--stages", "base")
    assert good("runs", "pruned", "--delete-unfinished", "--with-checkpoints", "--yes", "--json").document["deleted"] == []
    tfkit("pretrain", "chain.yaml", "--run", "pruned/other", "base.data.train.0.path=gone").exits(3)
    deleted = good("runs", "pruned", "--delete-unfinished", "--yes", "--json").document["deleted"]
    assert deleted == ["pruned/other/base", "pruned/other"]
    assert Path("pruned/chain/base/checkpoints").exists()


DAMAGES = [  # a file of a checkpoint, and what happens to it
    *(f"model.safetensors {how}" for how in ("missing", "truncated", "flipped")),
    *(f"{file} {how}" for file in ("tokenizer.json", "manifest.json") for how in ("missing", "flipped")),
    "training_state/state.json missing",
    ". missing",
    "../best.json missing",
]
ONE_STEP = [f"{stage}.{field}" for stage in ("tune", "small") for field in ("training.steps=1", "schedule.warmup_steps=0")]


@pytest.fixture(scope="module")
def first_stages(place: Path) -> dict[int, Path]:
    """The first stage of the chain, finished, by the step of its best checkpoint: the last one, or an earlier one."""
    worse = ["base.evaluation.every=2", "base.optimizer={lr: 1.0, clip_norm: null}", "base.schedule={kind: constant, warmup_steps: 6}"]
    runs = {6: place / "first-6", 2: place / "first-2"}
    with contextlib.chdir(place):
        for step, run in runs.items():
            good("pretrain", "chain.yaml", "--run", str(run), "--stages", "base", *(worse if step == 2 else []))
            assert read_json(run / "base/checkpoints/best.json")["step"] == step
    return runs


@pytest.fixture(scope="module")
def undamaged(place: Path, first_stages: dict[int, Path]) -> Path:
    """The first two stages, of which the second starts from the last checkpoint of the first."""
    shutil.copytree(first_stages[6], place / "undamaged")
    with contextlib.chdir(place):
        good("resume", "undamaged", "--stages", "tune", *ONE_STEP)
    return place / "undamaged"


def damaged(whole: Path, run: Path, damage: str) -> Path:
    """Copy a run to another place, and damage the best checkpoint of its first stage."""
    shutil.copytree(whole, run)
    root, (name, how) = run / "base" / "checkpoints", damage.split()
    file = root / f"step-{read_json(root / 'best.json')['step']:06d}" / name
    match how:
        case "missing":
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        case "truncated":
            file.write_bytes(file.read_bytes()[:-10])
        case "flipped":
            flip(file)
    return run


def parent(run: Path) -> Any:
    """Return the hash of the model that the stage `tune` started from."""
    return read_json(run / "tune/checkpoints/step-000001/tfkit.json")["lineage"]["parents"][0]["sha256"]


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("stages", "damage"), [*(("tune", damage) for damage in DAMAGES), ("small", "model.safetensors missing"), ("", "manifest.json missing")]
)
def test_a_stage_starts_from_the_best_checkpoint_alone(first_stages: dict[int, Path], tmp_path: Path, stages: str, damage: str) -> None:
    """The last checkpoint of the first stage is intact, and so the stage is finished."""
    run, used_by = damaged(first_stages[2], tmp_path / "run", damage), stages or "tune"
    message = tfkit("resume", str(run), *(["--stages", stages] if stages else []), *ONE_STEP).exits(4).err.splitlines()[-1]
    assert message.startswith(f"stage {used_by}: the stage base is damaged: {run}/base/checkpoints/"), message
    assert message.endswith(f"Restore it, or delete {run}/base to train that stage again"), message
    assert not list(run.glob(f"{used_by}/checkpoints/step-*"))


@pytest.mark.thorough
@pytest.mark.parametrize("file", ["model.safetensors", "training_state/state.json", "manifest.json", "."])
def test_a_stage_whose_last_checkpoint_is_damaged_is_refused_alone_and_continued_with_the_others(
    first_stages: dict[int, Path], undamaged: Path, tmp_path: Path, file: str
) -> None:
    """Whatever is lost; the other damages of a file are found above."""
    run = damaged(first_stages[6], tmp_path / "run", f"{file} missing")
    tfkit("resume", str(run), "--stages", "tune", *ONE_STEP).exits(4, "the stage base is damaged")
    good("resume", str(run), "--stages", "base,tune", *ONE_STEP)
    assert parent(run) == parent(undamaged)


@pytest.mark.thorough
def test_a_finished_chain_needs_its_first_stage_no_more(first_stages: dict[int, Path], tmp_path: Path) -> None:
    shutil.copytree(first_stages[2], tmp_path / "run")
    result = good("resume", str(tmp_path / "run"), *ONE_STEP, "--json").document["stages"]
    run = damaged(tmp_path / "run", tmp_path / "moved", ". missing")
    again = good("resume", str(run), "--json").document["stages"]
    assert {name: one["evaluation"] for name, one in again.items()} == {name: one["evaluation"] for name, one in result.items()}


# -- the totals: sums, and how the energy of all stages was obtained


FRANCE = {"g_per_kwh": 56.0, "source": "table", "year": 2023, "kind": "annual mean"}
USER = {"g_per_kwh": 100.0, "source": "carbon.intensity_g_per_kwh", "year": None, "kind": "user"}


def stage(folder: Path, **totals: Any) -> Path:
    folder.mkdir()
    document = {"schema_version": 1, "run_id": folder.name, "status": "finished", "attempts": [], "totals": totals}
    (folder / "run.json").write_text(json.dumps(document))
    return folder


def measured(energy: float, factor: float, **others: Any) -> dict[str, Any]:
    ends = {"energy_kwh_low": energy / 2, "energy_kwh_high": energy * 2}
    return {"seconds": 10.0, "energy_kwh": energy, "emissions_g": energy * factor, "carbon_status": "ok"} | ends | others


def totals(**stages: Path) -> dict[str, Any]:
    return stage_facts(stages)["totals"]


def test_ranges_add_up_and_sources_are_joined(tmp_path: Path) -> None:
    first = measured(1.0, 56.0, coverage=0.5, modelled_share=1.0, provenance={"cpu": "model", "gpu": None}, pue=1.0, intensity=FRANCE)
    other = {"seconds": 30.0, "coverage": 1.0, "modelled_share": 0.0, "provenance": {"cpu": "counter", "gpu": None}, "pue": 1.2}
    second = measured(3.0, 100.0, **other, intensity=USER, device_seconds={"A": 20.0})
    found = totals(a=stage(tmp_path / "a", **first, device_seconds={"A": 10.0, "B": 1.0}), b=stage(tmp_path / "b", **second))
    assert (found["energy_kwh"], found["energy_kwh_low"], found["energy_kwh_high"]) == (4.0, 2.0, 8.0)
    assert (found["coverage"], found["modelled_share"]) == (0.875, 0.25)
    assert (found["provenance"], found["pue"]) == ({"cpu": "model, counter", "gpu": None}, None)
    source = "table, carbon.intensity_g_per_kwh"
    assert found["intensity"] == {"g_per_kwh": 89.0, "source": source, "year": None, "kind": "annual mean, user"}
    assert found["device_seconds"] == {"A": 30.0, "B": 1.0}


@pytest.mark.parametrize(
    ("first", "second"), [(1.23456789012345e-9, 2.1e-10), (3.693139690765214e-05, 2.3848751083735645e-05), (5.994, 8.636)]
)
def test_small_sums_keep_their_digits(tmp_path: Path, first: float, second: float) -> None:
    """tfkit verify compares them with those of the ledgers; a whole of one part is that part."""
    parts = [stage(tmp_path / name, **measured(energy, 475.0), tokens=3) for name, energy in (("a", first), ("b", second))]
    found, alone = totals(a=parts[0], b=parts[1]), totals(a=parts[0])
    assert found["energy_kwh"] == pytest.approx(first + second, rel=1e-14)
    assert (found["tokens"], type(found["tokens"]), alone["energy_kwh"]) == (6, int, first)
    document = {"schema_version": 1, "run_id": "all", "kind": "stages", "status": "finished", "attempts": [], "totals": found}
    (tmp_path / "run.json").write_text(json.dumps(document | {"stages": {"a": {}, "b": {}}}))
    assert audit_runs(tmp_path)[-1].problems == []


def test_a_stage_of_an_older_version_leaves_no_bounds_and_one_without_a_meter_lowers_the_coverage(tmp_path: Path) -> None:
    older: dict[str, Any] = {"seconds": 5.0, "energy_kwh": 1.0, "emissions_g": 1.0, "carbon_status": "ok"}
    off: dict[str, Any] = {"seconds": 10.0, "energy_kwh": None, "carbon_status": "off", "coverage": None}
    metered = stage(tmp_path / "metered", **measured(1.0, 56.0, intensity=FRANCE, coverage=1.0))
    found = totals(a=metered, b=stage(tmp_path / "older", **older))
    assert (found["energy_kwh"], found["energy_kwh_low"], found["emissions_g_high"]) == (2.0, None, None)
    unmetered = stage(tmp_path / "off", **off)
    assert totals(a=unmetered, b=unmetered)["coverage"] is None
    assert totals(a=unmetered, b=metered)["coverage"] == 0.5
