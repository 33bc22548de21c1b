"""Runs at equal validation loss: crossings that are known, scores that are never reached, what was inherited, and what is no comparison."""

import math
from pathlib import Path

import pytest
from tiny_files import read_rows, write_rows
from tiny_runs import run_here
from written_runs import write_run

from tfkit.reporting.equal_score import Comparison, Cost, CurvePoint, compare_runs, cost_until, score_curve
from tfkit.reporting.run_facts import read_facts
from tfkit.reporting.run_set import open_runs
from tfkit.run.manifest import write_manifest


def cost(grams: float) -> Cost:
    return Cost(grams, grams, grams, grams)


def compare(folder: Path) -> Comparison:
    (found,) = compare_runs(open_runs([folder]))
    return found


def test_costs_are_interpolated_between_evaluations() -> None:
    curve = [CurvePoint(4.0, cost(2.0)), CurvePoint(2.0, cost(6.0)), CurvePoint(3.0, cost(8.0)), CurvePoint(1.0, cost(9.0))]
    found = {level: cost_until(curve, level, higher_is_better=False) for level in (5.0, 4.0, 3.0, 2.0, 1.5, 1.0, 0.5)}
    grams = {level: one.emissions_g if one else None for level, one in found.items()}
    assert grams == {5.0: 2.0, 4.0: 2.0, 3.0: 4.0, 2.0: 6.0, 1.5: 8.75, 1.0: 9.0, 0.5: None}
    rising = [CurvePoint(-point.value, point.cost) for point in curve]
    assert {level: cost_until(rising, -level, higher_is_better=True) for level in found} == found
    # A score that is not finite reaches nothing, and is no end of a line.
    curve = [CurvePoint(math.nan, cost(1.0)), CurvePoint(2.0, cost(2.0)), CurvePoint(math.inf, cost(3.0)), CurvePoint(1.0, cost(4.0))]
    assert cost_until(curve, 3.0, higher_is_better=False) == cost(2.0)
    assert cost_until(curve, 1.5, higher_is_better=False) == cost(4.0)
    assert cost_until([CurvePoint(math.nan, cost(1.0))], 9.0, higher_is_better=False) is None


def test_the_course_of_a_run_has_the_costs_of_its_records(tmp_path: Path) -> None:
    """Evaluations between two records are interpolated; that before the first step of a fine-tuning has cost nothing."""
    path = write_run(tmp_path / "run", losses=[4.0] * 6, setup_g=10.0, before={"loss": 9.0})
    lines = read_rows(path / "metrics.jsonl")
    kept = [line for line in lines if line["step"] in (2, 6)] + [{"step": step, "evaluation": {"loss": 7.0 - step}} for step in (1, 3, 6)]
    write_rows(path / "metrics.jsonl", kept)
    curve = score_curve(read_facts(path), "loss")
    assert [(point.value, point.cost.emissions_g, point.cost.seconds) for point in curve] == [
        (9.0, 0.0, 0.0),
        (6.0, 12.0, 4.0),
        (4.0, 13.0, 6.0),
        (1.0, 16.0, 12.0),
    ]


def test_fine_tuning_beside_from_scratch_with_and_without_what_was_inherited(tmp_path: Path) -> None:
    """From scratch a run reaches 2.0 with 100 g; fine-tuned from a base of 250 g it takes 15 g, halfway between its evaluations."""
    runs = tmp_path / "runs"
    parent = {"role": "start", "path": "base", "run_id": "base", "sha256": "0"}
    data = {"data": {"validation": ["same rows"]}}
    write_run(runs / "scratch", losses=[1.0] * 10, evaluations={5: 3.0, 10: 2.0}, grams_a_step=10.0, **data)
    tuned = {"grams_a_step": 10.0, "parents": [parent], "kind": "fine-tuning"}
    write_run(runs / "tuned", losses=[1.0] * 2, evaluations={1: 2.5, 2: 1.5}, **tuned, **data)
    write_run(tmp_path / "base", run_id="base", losses=[1.0], evaluations={1: 5.0}, grams_a_step=250.0, data={"validation": ["other rows"]})
    (found,) = compare_runs(open_runs([runs, tmp_path / "base"]))
    assert [one.label for one in found.entries] == ["scratch", "tuned"]
    worse, better = found.levels
    assert (worse.value, worse.best_of, better.value, better.best_of) == (2.0, "scratch", 1.5, "tuned")
    grams = {label: one.emissions_g if one else None for label, one in worse.reached.items()}
    assert grams == {"scratch": 100.0, "tuned": 15.0}
    assert found.with_inherited("tuned", worse.reached["tuned"], "emissions_g") == 265.0
    assert found.with_inherited("tuned", worse.reached["tuned"], "energy_kwh") == pytest.approx(2.65)
    assert better.reached["scratch"] is None
    lines = run_here(["report", runs, tmp_path / "base"]).exits(0).out.splitlines()
    start = lines.index("CO2e until a validation score was reached (with what was inherited):")
    assert [[cell.strip() for cell in line.split("  ") if cell] for line in lines[start + 1 : start + 4]] == [
        ["loss <=", "scratch", "tuned"],
        ["2", "100 g", "15 g (265 g)"],
        ["1.5", "never reached", "20 g (270 g)"],
    ]
    (document,) = run_here(["report", runs, "--json"]).exits(0).document["comparisons"]
    assert document["levels"][1]["reached"]["scratch"] is None
    assert document["levels"][0]["reached"]["tuned"]["with_inherited_g"] is None  # its base is not among these runs


def test_only_runs_that_were_judged_alike_are_compared(tmp_path: Path) -> None:
    for name, rows in {"a": "x", "b": "y"}.items():
        write_run(tmp_path / name, evaluations={3: 1.0}, data={"validation": [rows]})
    assert compare_runs(open_runs([tmp_path])) == []
    assert open_runs([tmp_path]).best is None
    for name, objective in {"c": "causal_lm", "d": "classification"}.items():
        write_run(tmp_path / name, evaluations={3: 1.0}, data={"validation": ["z"]}, recipe=f"objective: {{kind: {objective}}}\n")
    assert compare_runs(open_runs([tmp_path])) == []


def test_unequal_measurements_are_marked_and_unmeasured_runs_compared_by_time(tmp_path: Path) -> None:
    write_run(tmp_path / "measured", evaluations={3: 1.0})
    path = write_run(tmp_path / "not", evaluations={3: 2.0}, totals=False, ledger=False)
    text = (path / "metrics.jsonl").read_text().replace('"emissions_g"', '"other"').replace('"energy_wh"', '"more"')
    (path / "metrics.jsonl").write_text(text)
    found = compare(tmp_path)
    reached = found.levels[0].reached["not"]
    assert (reached.emissions_g, reached.seconds) == (None, 6.0)
    assert ["not at all" in note for note in found.notes] == [True], "a run that was not measured is in no other place"
    ledger = write_run(tmp_path / "elsewhere", evaluations={3: 2.0}) / "carbon" / "0-1.jsonl"
    ledger.write_text(ledger.read_text().replace("FRA, 100 g/kWh", "DEU, 300 g/kWh"))
    found = compare(tmp_path)
    assert "compare the energy, not the grams" in found.notes[0]
    assert [level.value for level in found.levels] == [2.0, 1.0], "runs with the same best score are one level"


def test_runs_without_a_loss_are_compared_by_their_best_metric_and_lower_bounds_are_marked(tmp_path: Path) -> None:
    for name, value in {"a": 0.5, "b": 0.7}.items():
        more = [{"step": 3, "evaluation": {"accuracy": value}}]
        write_run(tmp_path / name, ledger=False, carbon_status="degraded", more=more, best=(3, "accuracy", value))
    found = compare(tmp_path)
    assert (found.metric, [level.value for level in found.levels]) == ("accuracy", [0.5, 0.7])
    assert "the energy of a run is a lower bound" in found.notes


def test_runs_that_were_scored_in_other_lengths_or_losses_are_marked(tmp_path: Path) -> None:
    """A longer row leaves more context to each token, and smoothed labels are another loss; a rate of learning changes neither."""

    def notes(*recipes: str) -> list[str]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for number, recipe in enumerate(recipes):
            write_run(folder / f"run-{number}", evaluations={3: float(number)}, recipe=recipe)
        return list(compare(folder).notes)

    assert notes("optimizer: {lr: 1e-3}", "optimizer: {lr: 1e-2}") == []
    lengths = [f"data: {{sequence_length: null}}\nmodel: {{context_length: {length}}}" for length in (64, 128)]
    assert notes(*lengths) == ["the runs differ in model.context_length, so their scores may not be comparable"]
    assert notes(*(length.replace("null", "32") for length in lengths)) == []
    (note,) = notes("objective: {label_smoothing: 0.1}\nevaluation: {max_tokens: 9}", "objective: {label_smoothing: 0.0}")
    assert note == "the runs differ in evaluation.max_tokens, objective.label_smoothing, so their scores may not be comparable"


def test_models_with_other_vocabularies_are_compared_on_the_same_text_by_its_bytes(base: Path) -> None:
    """Real runs: a tokenizer of their own gives other ids of the same held-out text."""
    for size in (290, 300):
        run_here(["pretrain", base / "tiny.yaml", "--run", base / "sizes" / str(size), f"tokenizer.vocab_size={size}"]).exits(0)
    found = compare(base / "sizes")
    assert (found.metric, [entry.label for entry in found.entries]) == ("bits_per_byte", ["290", "300"])
    assert found.notes[:2] == (
        "the vocabularies differ, so bits per byte are compared, not the loss per token",
        "evaluation.max_tokens counts tokens, which differ, so other texts may have been scored",
    )


def test_a_damaged_size_of_the_vocabulary_is_not_known(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = write_run(tmp_path / name, evaluations={3: 1.0}) / "checkpoints" / "step-000003"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"vocab_size": []}', encoding="utf-8")
        write_manifest(folder)
    assert compare(tmp_path).metric == "loss"


def test_many_runs_are_cut_to_the_best_ones(tmp_path: Path) -> None:
    for index in range(11):
        write_run(tmp_path / f"run-{index:02d}", evaluations={3: float(index)})
    found = compare(tmp_path)
    assert [one.label for one in found.entries] == [f"run-{index:02d}" for index in range(8)]
    assert "of 11 runs the 8 with the best scores are compared" in found.notes
