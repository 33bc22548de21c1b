"""--format card: the card of a checkpoint, with the cost of the whole run in place of that at the moment of the checkpoint."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_runs import run_here
from written_runs import write_run

from tfkit.errors import UsageError
from tfkit.reporting.finished_card import finished_card
from tfkit.reporting.run_facts import read_facts
from tfkit.reporting.run_set import open_runs

FIXTURES = Path(__file__).parents[1] / "fixtures" / "v0.1.0"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 0.1.0 that was stopped, of which run.json has 12,345 g by now."""
    path = shutil.copytree(FIXTURES / "stopped", tmp_path / "stopped")
    document = json.loads((path / "run.json").read_text(encoding="utf-8"))
    document["totals"] |= {"emissions_g": 12345.678, "energy_kwh": 25.5, "train_flops": 2.5e15, "rework_g": 2.0}
    (path / "run.json").write_text(json.dumps(document), encoding="utf-8")
    return path


def test_a_card_has_the_cost_of_the_whole_run_and_is_else_as_it_was(run: Path) -> None:
    facts = read_facts(run)
    readme = facts.checkpoint.path / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8") + "\nWords of mine: $1 \\1.\n\n## My section\n\nMore.\n", encoding="utf-8")
    card = run_here(["report", run, "--format", "card"]).exits(0).out
    lines = card.splitlines()
    assert lines.count("co2_eq_emissions:") == 1
    assert "  emissions: 12345.678" in lines
    assert "| carbon emitted | 12.3 kg CO2e |" in lines
    assert "| computation | 2.5e+15 FLOP by the architecture |" in lines
    assert sum(line.startswith("Training took 25.5 kWh of electricity and emitted 12.3 kg of CO2e") for line in lines) == 1
    assert sum(line.startswith("Training took") for line in lines) == 1
    kept = [line for line in readme.read_text(encoding="utf-8").splitlines() if not line.startswith(("Training took", "  emissions:"))]
    assert [line for line in kept if line not in lines] == []
    for line_end in ("\n", "\r\n"):
        readme.write_text(card, encoding="utf-8", newline=line_end)
        assert finished_card(read_facts(run), full=False) == card


def test_a_run_without_a_checkpoint_has_no_card(tmp_path: Path, run: Path) -> None:
    run_here(["report", write_run(tmp_path / "none"), "--format", "card"]).exits(2, "no checkpoint")
    shutil.copytree(run, tmp_path / "two" / "a")
    shutil.copytree(run, tmp_path / "two" / "b")
    run_here(["report", tmp_path / "two", "--format", "card"]).exits(2, "there are 2 runs (a, b); name one")


def test_the_card_of_stages_is_the_last_one_s_and_of_a_sweep_the_best_one_s(tmp_path: Path, run: Path) -> None:
    chain = write_run(tmp_path / "chain", ledger=False, kind="stages", stages={"base": {}, "tune": {}})
    sweep = write_run(tmp_path / "sweep", ledger=False, kind="sweep", trials={"1": {}, "2": {}, "3": {}}, best_trial="2")
    for path in (chain / "base", chain / "tune", *(sweep / name for name in "123")):
        shutil.copytree(run, path)
    assert open_runs([chain]).of_one_model().path == chain / "tune"
    assert open_runs([sweep]).of_one_model().path == sweep / "2"
    assert open_runs([sweep]).amounts.emissions_g == pytest.approx(3 * 12345.678)
    run_here(["report", chain, "--format", "card"]).exits(0)
    (sweep / "run.json").write_text((sweep / "run.json").read_text().replace('"best_trial": "2"', '"best_trial": null'))
    with pytest.raises(UsageError, match="there are 4 runs"):
        open_runs([sweep]).of_one_model()
