"""Twenty fixed walks, or as many as --walks says, with the invariants on some; and the cases that once failed.

pytest tests/walks --walk-seed 17        one walk, with the invariants
python -m walks 17 --invariants          the same in the folder tests, printed; --shrink makes it small
"""

from pathlib import Path

import pytest

from walks.invariants import judge_walk
from walks.scenario import Walk, read_case
from walks.workflow import draw_walk

PER_TEST = 2  # so that the workers of xdist share them
INVARIANTS_EVERY = 10
SHORT = 20  # this many walks or fewer: invariants are checked on these alone
FEW = (3, 11)
CASES = sorted(Path(__file__).with_name("cases").glob("*.yaml"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seeds" in metafunc.fixturenames:
        seed, walks = metafunc.config.getoption("--walk-seed"), metafunc.config.getoption("--walks")
        seeds = [range(seed, seed + 1)] if seed is not None else [range(n, min(n + PER_TEST, walks)) for n in range(0, walks, PER_TEST)]
        metafunc.parametrize("seeds", seeds, ids=[f"{part[0]}-{part[-1]}" for part in seeds])


@pytest.mark.thorough
def test_walks(seeds: range, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    failed = []
    for seed in seeds:
        checked = len(seeds) == 1 or (seed in FEW if request.config.getoption("--walks") <= SHORT else seed % INVARIANTS_EVERY == 0)
        outcome = judge_walk(draw_walk(seed), tmp_path / str(seed), invariants=checked)
        failed += [f"walk {seed}: {failure.signature}\n{failure.detail}" for failure in outcome.failures]
    assert not failed, "\n\n".join([*failed, "python -m walks SEED --shrink (in the folder tests) makes one small"])


@pytest.mark.sampled(8)
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_case_that_once_failed(path: Path, tmp_path: Path) -> None:
    case = read_case(path)
    outcome = judge_walk(Walk.from_document(case), tmp_path / "walk", invariants=case.get("invariants", False))
    assert not outcome.failures, outcome.failures
    assert [done and done.code for _, done in outcome.done] == case["codes"]
