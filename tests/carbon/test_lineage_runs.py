"""Lineage in real runs: a chain, distillation, LoRA and its merge, an average, and PPO with reward and value models. Metered at 36 W."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_codecarbon import PATIENCE_SECONDS
from tiny_files import read_json, receipt, write_rows
from tiny_runs import write_corpus, write_recipe

import tfkit
from tfkit.__main__ import main
from tfkit.carbon import Meter
from tfkit.engine.assembly.base_model import parent_of
from tfkit.engine.request.run_totals import stage_facts
from tfkit.hub import content_hash, run_id_of
from tfkit.run.ancestors import FoundAncestors, Parent, find_ancestors, read_lineage
from tfkit.run.checkpoints import newest_checkpoint
from tfkit.run.lineage import Ancestor
from tfkit.run.manifest import verify

METERED = ["carbon={enabled: true, intensity_g_per_kwh: 100, every_seconds: 1}", "training.steps=2", "evaluation.every=2", "--threads=1"]
UNMETERED = "carbon.enabled=false"  # for runs whose own energy no test reads
LORA = "training.adapter={rank: 2, targets: [q_proj]}"
TAUGHT = "objective={kind: distillation, teacher: tuned, of: {kind: causal_lm}}"
PPO = (
    "objective={kind: ppo, rules: [{kind: contains, text: a}], reward: scores, value: critic, prompts: 2, completions: 2, "
    "max_new_tokens: 2}"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the folder for all runs. Each run starts its work after the first reading of its meter."""
    folder = tmp_path_factory.mktemp("lineage")
    corpus = write_corpus(folder / "corpus", files=2)
    words = corpus.joinpath("0.txt").read_text(encoding="utf-8").split()
    pairs = [{"prompt": " ".join(words[i : i + 3]), "chosen": " cat", "rejected": f" {words[i]}"} for i in range(12)]
    write_rows(folder / "pairs.jsonl", pairs)
    write_rows(folder / "prompts.jsonl", [{"prompt": pair["prompt"]} for pair in pairs])
    text = write_recipe(folder, Path("corpus")).read_text(encoding="utf-8")
    tune = (line for line in text.splitlines(keepends=True) if not line.startswith(("model:", "tokenizer:")))
    (folder / "tune.yaml").write_text("".join(tune), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(Meter, "start", ready(Meter.start))
        yield folder


def ready(start: Callable[..., Meter]) -> Any:
    def waiting(section: Any, **options: Any) -> Meter:
        meter = start(section, **options, probe="scripted_probe:Steady")
        while section.enabled and not meter.fresh_reading(PATIENCE_SECONDS).energy_wh:
            pass
        return meter

    return waiting


def trained(name: str, command: str, *words: str) -> Path:
    """Return the checkpoint of a run; the first call makes the run."""
    if not Path(name).exists():
        recipe = "tiny.yaml" if command == "pretrain" else "tune.yaml"
        assert main([command, recipe, "--run", name, *METERED, *words]) == 0
    return newest_checkpoint(Path(name, "checkpoints"))


def base() -> Path:
    return trained("base", "pretrain")


def tuned() -> Path:
    base()
    return trained("tuned", "finetune", "--from", "base", "checkpoint={every: 1, keep: 2}")


def ancestors(folder: Path) -> tuple[Ancestor, ...]:
    return read_lineage(folder).ancestors


def own_grams(folder: Path) -> float:
    own = read_lineage(folder).own
    assert own.status == "ok"
    return own.emissions_g


def inherited(run: str) -> dict[str, Any]:
    """Return what the result of a run says of its ancestors."""
    return {name: value for name, value in receipt(run)["result"].items() if name.startswith("inherited")}


def behind(folder: Path) -> FoundAncestors:
    """Return the ancestors of a run that would start from the model of a folder."""
    return find_ancestors([parent(folder)], "new")


def parent(folder: Path) -> Parent:
    return parent_of({"role": "start", "path": str(folder), "run_id": run_id_of(folder), "sha256": content_hash(folder)}, folder)


def described(found: tuple[Ancestor, ...]) -> list[tuple[str, tuple[str, ...], tuple[int, ...]]]:
    return [(one.name, one.roles, one.parents) for one in found]


def test_a_chain_has_the_totals_of_each_checkpoint_and_says_what_it_inherits(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = base()
    assert ancestors(first) == ()
    own = read_lineage(first).own
    assert own.emissions_g == pytest.approx(own.energy_kwh * 100)
    assert 0 < own.energy_kwh < 1.01 * 0.036 * own.seconds / 3600
    assert own.intensity == {"g_per_kwh": 100.0, "source": "carbon.intensity_g_per_kwh", "year": None, "kind": "user"}
    assert own.intensity == receipt("base")["totals"]["intensity"]
    assert own.provenance == "CPU model, RAM constant"
    capsys.readouterr()
    second = tuned()
    shown = capsys.readouterr().out
    (ancestor,) = ancestors(second)
    assert (ancestor.name, ancestor.roles, ancestor.source, ancestor.status) == ("base", ("start",), "ledger", "ok")
    assert (ancestor.run_id, ancestor.sha256, ancestor.emissions_g) == (run_id_of(first), content_hash(first), own_grams(first))
    result = inherited("tuned")
    assert (result["inherited_g"], result["inherited_is_lower_bound"]) == (own_grams(first), False)
    assert result["inherited_kwh"] == own.energy_kwh
    (line,) = [line for line in shown.splitlines() if line.startswith("lineage")]
    assert "this run " in line
    assert "; with its ancestors " in line
    assert "at least" not in line
    card = (second / "README.md").read_text().split("## Environmental impact")[1]
    assert "from the models behind this one; with this run " in card
    assert "| grid | 100 g/kWh (carbon.intensity_g_per_kwh" in card
    assert "| computation | " in card
    assert {*inherited("base").items()} == {("inherited_g", None), ("inherited_kwh", None), ("inherited_is_lower_bound", False)}
    grams = [own_grams(path) for path in sorted(Path("tuned/checkpoints").glob("step-*"))]
    assert grams == sorted(grams)
    assert len(grams) == 2


def test_two_ways_to_one_ancestor_count_it_once_and_a_copy_knows_them_all(place: Path) -> None:
    tuned()
    student = trained("student", "pretrain", TAUGHT, "tokenizer={path: base}", UNMETERED)
    assert described(ancestors(student)) == [("tuned", ("teacher",), (1,)), ("base", ("tokenizer", "start"), ())]
    total = own_grams(tuned()) + own_grams(base())
    assert inherited("student")["inherited_g"] == pytest.approx(total)
    together = stage_facts({name: Path(name) for name in ("tuned", "student")})["totals"]  # stages of a chain are not its ancestors
    assert (together["inherited_g"], together["inherited_is_lower_bound"]) == (own_grams(base()), False)
    alone = Path("alone")
    shutil.copytree(student, alone / "renamed", dirs_exist_ok=True)
    found = behind(alone / "renamed").ancestors
    assert [one.name for one in found] == ["renamed", "tuned", "base"]
    assert [one.emissions_g for one in found[1:]] == [own_grams(tuned()), own_grams(base())]
    # Two checkpoints of one run, and a copy of one without its tfkit.json: one ancestor, with the largest total.
    both = sorted(Path("tuned/checkpoints").glob("step-*"))
    shutil.copytree(both[1], "bare", ignore=shutil.ignore_patterns("tfkit.json", "manifest.json", "README.md"))
    one, root = find_ancestors([parent(folder) for folder in (*both, Path("bare"))], "new").ancestors
    assert (one.run_id, one.emissions_g, root.name) == (run_id_of(both[1]), own_grams(both[1]), "base")


def test_an_adapter_its_saved_merge_and_a_mean_have_the_ancestors_of_their_run(place: Path) -> None:
    tuned()
    adapter = trained("adapter", "finetune", "--from", "tuned", LORA)
    names = [("tuned", ("start",), (1,)), ("base", ("start",), ())]
    assert described(ancestors(adapter)) == names
    found = behind(adapter).ancestors
    assert described(found) == [("adapter", ("start",), (1,)), ("tuned", ("start", "base"), (2,)), ("base", ("start",), ())]
    tfkit.load(adapter).save("whole")
    assert (run_id_of(Path("whole")), read_lineage(Path("whole"))) == (run_id_of(adapter), read_lineage(adapter))
    assert [one.emissions_g for one in behind(Path("whole")).ancestors] == [one.emissions_g for one in found]
    # An adapter without tfkit.json has no lineage, but the model that it updates is an ancestor nevertheless.
    foreign = Path("foreign")
    shutil.copytree(adapter, foreign, ignore=shutil.ignore_patterns("tfkit.json", "manifest.json", "README.md"))
    config = read_json(foreign / "adapter_config.json")
    assert Path(config["base_model_name_or_path"]).name == "step-000002"
    run = trained("from-foreign", "finetune", "--from", "foreign", UNMETERED)
    assert described(ancestors(run))[:2] == [("foreign", ("start",), (1,)), ("tuned", ("base",), (2,))]
    result = inherited("from-foreign")
    assert (result["inherited_g"], result["inherited_is_lower_bound"]) == (pytest.approx(own_grams(tuned()) + own_grams(base())), True)

    assert main(["average", "tuned", "--last", "2", "--out", "mean"]) == 0
    assert verify(Path("mean")) == []
    assert [parent.role for parent in read_lineage(Path("mean")).parents] == ["start", "averaged", "averaged"]
    found = behind(Path("mean")).ancestors
    assert described(found) == [("mean", ("start",), (1,)), ("base", ("start",), ())]
    assert (found[0].run_id, found[0].emissions_g) == (run_id_of(tuned()), own_grams(tuned()))


@pytest.mark.thorough
def test_a_policy_has_each_model_behind_it_once(place: Path) -> None:
    tuned()
    pairs = "data={train: [{path: pairs.jsonl}], validation: 0.3}"
    scores = trained("scores", "finetune", "--from", "base", "objective={kind: reward}", pairs)
    shutil.copytree(scores, "critic")
    prompts = "data={train: [{path: prompts.jsonl}], validation: [{path: prompts.jsonl}]}"
    policy = trained("policy", "finetune", "--from", "tuned", PPO, UNMETERED, prompts)
    roles = [(parent.role, parent.path) for parent in read_lineage(policy).parents]
    assert roles == [("start", "tuned"), ("reward", "scores"), ("value", "critic")]
    expected = [("tuned", ("start",), (2,)), ("scores", ("reward", "value"), (2,)), ("base", ("start",), ())]
    assert described(ancestors(policy)) == expected
    total = sum(own_grams(path) for path in (tuned(), scores, base()))
    result = inherited("policy")
    assert (result["inherited_g"], result["inherited_is_lower_bound"]) == (pytest.approx(total), False)


def test_a_parent_whose_files_were_edited_is_reported_and_not_used(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(base(), "edited")
    facts = Path("edited/tfkit.json")
    facts.write_text(facts.read_text().replace('"emissions_g": ', '"emissions_g": 5.0, "before": ', 1))
    assert main(["finetune", "tune.yaml", "--from", "edited", "--run", "refused", *METERED]) == 4
    assert "tfkit.json" in capsys.readouterr().err
    assert main(["finetune", "tune.yaml", "--from", "edited", "--run", "unsure", "--no-verify", *METERED]) == 0
    captured = capsys.readouterr()
    assert "edited/tfkit.json: was edited" in captured.err
    assert "; the emissions of its ancestors are not known\n" in captured.out
    result = inherited("unsure")
    assert (result["inherited_g"], result["inherited_is_lower_bound"]) == (None, True)
