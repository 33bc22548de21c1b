"""Learning rates against values made by hand; and when a model has ceased to improve, beside the plainest statement of it."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfkit.data import BatchSizes
from tfkit.engine.training_run.validator import since_best
from tfkit.recipe.schema.optimizer_sections import ScheduleSection
from tfkit.training.schedule import Schedule


def factors(schedule: dict[str, object], total: int, steps: list[int], **run: Any) -> list[float]:
    whole = Schedule(ScheduleSection.model_validate(schedule), total, **run)
    return [whole.factor(step) for step in steps]


@pytest.mark.parametrize(
    ("schedule", "steps", "expected"),
    [
        ({"kind": "constant"}, [1, 50, 100], [1, 1, 1]),
        ({"kind": "constant", "warmup_steps": 4}, [1, 2, 4, 5, 100], [0.25, 0.5, 1, 1, 1]),
        ({"kind": "linear"}, [1, 50, 100], [0.99, 0.5, 0]),
        ({"kind": "linear", "warmup_steps": 20, "final_ratio": 0.1}, [10, 20, 60, 100], [0.5, 1, 0.55, 0.1]),
        ({"kind": "cosine"}, [25, 50, 75, 100], [0.8535533905932737, 0.5, 0.1464466094067262, 0]),
        ({"kind": "cosine", "warmup_steps": 20, "final_ratio": 0.2}, [1, 20, 40, 60, 100], [0.05, 1, 0.8828427124746191, 0.6, 0.2]),
        ({"kind": "linear", "decay_end": 0.5, "final_ratio": 0.1}, [25, 50, 51, 100], [0.55, 0.1, 0.1, 0.1]),
        ({"kind": "cosine", "warmup_steps": 20, "decay_end": 0.6, "final_ratio": 0.2}, [20, 40, 60, 100], [1, 0.6, 0.2, 0.2]),
        ({"kind": "wsd"}, [1, 80, 81, 90, 100], [1, 1, 0.95, 0.5, 0]),
        ({"kind": "wsd", "warmup_steps": 10, "decay_ratio": 0.5, "final_ratio": 0.2}, [5, 10, 50, 75, 100], [0.5, 1, 1, 0.6, 0.2]),
        ({"kind": "wsd", "decay_ratio": 1.0}, [1, 50, 100], [0.99, 0.5, 0]),
        ({"kind": "wsd", "warmup_steps": 90, "decay_ratio": 0.5}, [45, 90, 95, 100], [0.5, 1, 0.5, 0]),
        ({"kind": "inverse_sqrt", "warmup_steps": 16}, [4, 16, 64, 100], [0.25, 1, 0.5, 0.4]),
        ({"kind": "inverse_sqrt"}, [1, 4, 100], [1, 0.5, 0.1]),
        ({"kind": "inverse_sqrt", "flat_steps": 16}, [1, 16, 64, 100], [1, 1, 0.5, 0.4]),
        ({"kind": "inverse_sqrt", "flat_steps": 16, "warmup_steps": 4}, [1, 4, 16, 64], [0.25, 1, 1, 0.5]),
        ({"kind": "inverse_sqrt", "flat_steps": 4, "warmup_steps": 16}, [4, 16, 64], [0.25, 1, 0.5]),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_by_hand(schedule: dict[str, object], steps: list[int], expected: list[float]) -> None:
    assert factors(schedule, 100, steps) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("dim", "golden"), [(512, {1: 1.74693e-7, 4000: 6.98771e-4, 100_000: 1.39754e-4}), (1024, {4000: 4.94106e-4})])
def test_the_paper_s_learning_rate(dim: int, golden: dict[int, float]) -> None:
    """Section 5.3 of arXiv 1706.03762: dim^-0.5 min(step^-0.5, step warmup^-1.5), with warmup 4000."""
    peak = (dim * 4000) ** -0.5
    steps = list(golden)
    assert factors({"kind": "noam", "warmup_steps": 4000}, 100_000, steps, dim=dim) == pytest.approx(list(golden.values()), rel=1e-5)
    found = factors({"kind": "inverse_sqrt", "warmup_steps": 4000}, 100_000, steps)
    assert [peak * factor for factor in found] == pytest.approx(list(golden.values()), rel=1e-5)


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "inverse_sqrt", "wsd"])
def test_a_warm_up_in_tokens_is_one_in_steps_where_it_ends_with_a_step(kind: str) -> None:
    """Seven steps of 4 rows of 5 tokens on average."""
    run = {"sizes": BatchSizes(4), "mean_tokens": 5.0}
    in_tokens = factors({"kind": kind, "warmup_tokens": 7 * 4 * 5}, 30, list(range(1, 31)), **run)
    assert in_tokens == pytest.approx(factors({"kind": kind, "warmup_steps": 7}, 30, list(range(1, 31))), rel=1e-12)


def test_a_warm_up_in_tokens_may_end_within_a_step() -> None:
    found = factors({"kind": "linear", "warmup_tokens": 30}, 5, [1, 2, 3, 4, 5], sizes=BatchSizes(4), mean_tokens=5.0)
    assert found == pytest.approx([20 / 30, 60 / 70, 40 / 70, 20 / 70, 0])


def test_with_growing_batches_the_decay_goes_by_tokens() -> None:
    """Eight steps of 2 to 8 rows, of 5 tokens each."""
    sizes = BatchSizes(8, 2, 16)
    assert [sizes.size(step) for step in range(8)] == [2, 2, 2, 4, 4, 4, 6, 8]
    tokens = [10, 20, 30, 50, 70, 90, 120, 160]
    run, steps = {"sizes": sizes, "mean_tokens": 5.0}, list(range(1, 9))
    assert factors({"kind": "linear"}, 8, steps, **run) == pytest.approx([1 - read / 160 for read in tokens])
    warm = factors({"kind": "linear", "warmup_tokens": 30}, 8, steps, **run)
    assert warm == pytest.approx([1 / 3, 2 / 3, 1, *(1 - (read - 30) / 130 for read in tokens[3:])])
    by_steps = factors({"kind": "linear", "warmup_steps": 2}, 8, steps, **run)
    assert by_steps == pytest.approx([1 / 2, 1, *(1 - (read - 20) / 140 for read in tokens[2:])])
    wsd = factors({"kind": "wsd", "decay_ratio": 0.5}, 8, steps, **run)  # over the last four steps
    assert wsd == pytest.approx([1, 1, 1, 1, *(1 - (read - 50) / 110 for read in tokens[4:])])
    assert factors({"kind": "inverse_sqrt", "warmup_tokens": 40}, 8, [2, 4, 8], **run) == pytest.approx([0.5, 1, math.sqrt(4 / 8)])


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "inverse_sqrt", "wsd"])
@pytest.mark.parametrize("warmup", [0, 1, 7, 30])
def test_it_rises_over_the_warm_up_and_never_after(kind: str, warmup: int) -> None:
    found = factors({"kind": kind, "warmup_steps": warmup}, 30, list(range(1, 31)))
    assert found[:warmup] == pytest.approx([step / warmup for step in range(1, warmup + 1)])
    falling = found[max(warmup - 1, 0) :]
    assert falling == sorted(falling, reverse=True)
    assert all(0 <= factor <= 1 for factor in found)


def test_gpt_3_s_learning_rate() -> None:
    """arXiv 2005.14165, appendix B: warm-up over 375 million tokens, a cosine to a tenth at 260 billion, then flat to 300 billion."""
    sizes = BatchSizes(1568, 16, 12e9 / 2048)  # 3.2M tokens, from 32k, over 12 billion
    steps = sizes.steps(300e9 / 2048)
    section = {"kind": "cosine", "warmup_tokens": 375_000_000, "decay_end": 260 / 300, "final_ratio": 0.1}

    def after(tokens: float) -> float:
        return factors(section, steps, [sizes.steps(tokens / 2048)], sizes=sizes, mean_tokens=2048.0)[0]

    assert after(375e6 / 2) == pytest.approx(0.5, abs=1e-3)
    assert after(375e6) == pytest.approx(1.0, abs=1e-6)
    assert after((260e9 + 375e6) / 2) == pytest.approx(0.55, abs=1e-4)
    assert after(260e9) == pytest.approx(0.1, abs=1e-6)
    assert after(280e9) == pytest.approx(0.1, abs=1e-12)


def test_a_run_of_one_step_has_a_learning_rate() -> None:
    assert factors({"kind": "cosine", "final_ratio": 0.1}, 1, [1]) == [pytest.approx(0.1)]
    assert factors({"kind": "cosine", "warmup_steps": 1}, 1, [1]) == [1]


VALUES = st.lists(st.one_of(st.none(), st.just(math.nan), st.just(math.inf), st.just(-math.inf), st.integers(0, 3).map(float)))


@given(VALUES, st.booleans())
def test_the_evaluations_since_the_best(values: list[float | None], higher: bool) -> None:
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    if not numbers:
        assert since_best(values, higher) == len(values)
        return
    first_best = values.index(max(numbers) if higher else min(numbers))
    assert since_best(values, higher) == len(values) - 1 - first_best
