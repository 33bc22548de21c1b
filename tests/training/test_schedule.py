"""Learning rates against values made by hand."""

import pytest

from tfkit.recipe.schema import ScheduleSection
from tfkit.training.schedule import lr_factor


def factors(schedule: dict[str, object], total: int, steps: list[int]) -> list[float]:
    section = ScheduleSection.model_validate(schedule)
    return [lr_factor(section, step, total) for step in steps]


@pytest.mark.parametrize(
    ("schedule", "steps", "expected"),
    [
        ({"kind": "constant"}, [1, 50, 100], [1, 1, 1]),
        ({"kind": "constant", "warmup_steps": 4}, [1, 2, 4, 5, 100], [0.25, 0.5, 1, 1, 1]),
        ({"kind": "linear"}, [1, 50, 100], [0.99, 0.5, 0]),
        ({"kind": "linear", "warmup_steps": 20, "final_ratio": 0.1}, [10, 20, 60, 100], [0.5, 1, 0.55, 0.1]),
        ({"kind": "cosine"}, [25, 50, 75, 100], [0.8535533905932737, 0.5, 0.1464466094067262, 0]),
        ({"kind": "cosine", "warmup_steps": 20, "final_ratio": 0.2}, [1, 20, 40, 60, 100], [0.05, 1, 0.8828427124746191, 0.6, 0.2]),
        ({"kind": "wsd"}, [1, 80, 81, 90, 100], [1, 1, 0.95, 0.5, 0]),
        ({"kind": "wsd", "warmup_steps": 10, "decay_ratio": 0.5, "final_ratio": 0.2}, [5, 10, 50, 75, 100], [0.5, 1, 1, 0.6, 0.2]),
        ({"kind": "wsd", "decay_ratio": 1.0}, [1, 50, 100], [0.99, 0.5, 0]),
        ({"kind": "wsd", "warmup_steps": 90, "decay_ratio": 0.5}, [45, 90, 95, 100], [0.5, 1, 0.5, 0]),
        ({"kind": "inverse_sqrt", "warmup_steps": 16}, [4, 16, 64, 100], [0.25, 1, 0.5, 0.4]),
        ({"kind": "inverse_sqrt"}, [1, 4, 100], [1, 0.5, 0.1]),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_by_hand(schedule: dict[str, object], steps: list[int], expected: list[float]) -> None:
    assert factors(schedule, 100, steps) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("dim", "golden"),
    [(512, {1: 1.74693e-7, 4000: 6.98771e-4, 100_000: 1.39754e-4}), (1024, {4000: 4.94106e-4})],
)
def test_the_paper_s_learning_rate(dim: int, golden: dict[int, float]) -> None:
    """Section 5.3 of arXiv 1706.03762: dim^-0.5 min(step^-0.5, step warmup^-1.5), with warmup 4000."""
    peak = (dim * 4000) ** -0.5
    found = factors({"kind": "inverse_sqrt", "warmup_steps": 4000}, 100_000, list(golden))
    assert [peak * factor for factor in found] == pytest.approx(list(golden.values()), rel=1e-5)


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "inverse_sqrt", "wsd"])
@pytest.mark.parametrize("warmup", [0, 1, 7, 30])
def test_it_rises_over_the_warm_up_and_never_after(kind: str, warmup: int) -> None:
    found = factors({"kind": kind, "warmup_steps": warmup}, 30, list(range(1, 31)))
    assert found[:warmup] == pytest.approx([step / warmup for step in range(1, warmup + 1)])
    falling = found[max(warmup - 1, 0) :]
    assert falling == sorted(falling, reverse=True)
    assert all(0 <= factor <= 1 for factor in found)


def test_a_run_of_one_step_has_a_learning_rate() -> None:
    assert factors({"kind": "cosine", "final_ratio": 0.1}, 1, [1]) == [pytest.approx(0.1)]
    assert factors({"kind": "cosine", "warmup_steps": 1}, 1, [1]) == [1]
