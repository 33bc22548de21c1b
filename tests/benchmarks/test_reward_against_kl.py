"""benchmarks/reward_against_kl.py: its figure and its table, of a sweep's folder."""

import json
from pathlib import Path
from xml.etree import ElementTree

from reward_against_kl import read, svg, table, ticks


def test_a_line_for_each_trial(tmp_path: Path) -> None:
    trials = {"trial-001": {"values": {"objective.beta": 0}}, "trial-002": {"values": {"objective.beta": 0.3}}}
    own = {"schema_version": 1, "run_id": "made", "status": "finished", "attempts": []}
    (tmp_path / "run.json").write_text(json.dumps({**own, "kind": "sweep", "trials": trials}))
    for number, name in enumerate(trials):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({**own, "before": {"reward": -1.0, "gold": 0.4, "kl": 0.0}}))
        scores = [{"reward": 2.0, "gold": 0.9 - number / 10, "kl": 16.0}, {"reward": 3.0 - number, "gold": 0.7, "kl": 36.0}]
        lines = [json.dumps({"step": step, "evaluation": one}) for step, one in enumerate(scores, 1)]
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    curves = read(tmp_path, "objective.beta")
    assert {value: len(scores) for value, scores in curves.items()} == {"0.3": 3, "0": 3}
    assert [*curves] == ["0.3", "0"]
    drawn = ElementTree.fromstring(svg(curves, "beta"))
    space = "{http://www.w3.org/2000/svg}"
    assert len(drawn.findall(f"{space}circle")) == 12
    ends = [line.get("points", "").split()[-1] for line in drawn.findall(f"{space}polyline")][:2]
    assert {end.partition(",")[0] for end in ends} == {"352.0"}  # both go as far: the root of 36 is the whole width
    assert table(curves, "beta").splitlines()[2:] == [
        "| 0.3 | 2.00 | 0.700 | 36.0 | 0.800 at 2.00, 16.0 |",
        "| 0 | 3.00 | 0.700 | 36.0 | 0.900 at 2.00, 16.0 |",
    ]


def test_ticks_cover_the_range_in_round_numbers() -> None:
    assert ticks(0.4, 0.95) == [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert ticks(-1.3, 8.3) == [-2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
