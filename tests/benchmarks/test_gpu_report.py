"""The measurements and the report of `make gpu`."""

import math

import gpu_report
import pytest
import torch
from gpu_report import RUNNERS, SHAPES, measure, run_tests, shape_of, tfkit_config
from plain_decoder import PlainDecoder, PlainLoop

from tfkit.model.transformer import on_meta


@pytest.mark.parametrize("name", SHAPES)
def test_both_runners_train_a_model_of_the_same_size(name: str) -> None:
    def size(model: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    shallow = {**SHAPES[name], "layers": 1}
    with torch.device("meta"):
        assert size(PlainDecoder(shallow)) == size(on_meta(tfkit_config(shallow)))
    assert f"{size(on_meta(tfkit_config(SHAPES[name]))) / 1e6:.0f}M" in name


@pytest.mark.parametrize("runner", [name for name, (_, compiled, _) in RUNNERS.items() if not compiled])
@pytest.mark.parametrize("name", SHAPES)
def test_a_row_of_the_table(name: str, runner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_report, "SECONDS", 0.0)
    before = torch.are_deterministic_algorithms_enabled()
    try:
        found = measure(name, runner, "cpu")
    finally:
        torch.use_deterministic_algorithms(before)
    assert found["tokens_per_second"] > 0
    assert 0 < found["mfu"] < 2
    assert found["losses"][0] == pytest.approx(math.log(shape_of(name, "cpu")["vocab"]), abs=0.3), "random ids, nothing learned yet"


def test_the_plain_loop_learns() -> None:
    loop = PlainLoop(shape_of("Llama 125M", "cpu"), torch.device("cpu"), bf16=False, compiled=False)
    ids = torch.randint(512, (2, 65), generator=torch.Generator().manual_seed(1))
    losses = [loop.step(ids) for _ in range(12)]
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.slow  # a program of its own
def test_failures_are_in_the_report_with_their_traceback() -> None:
    head, _, title, *traceback = run_tests("abacus", "bf16_is_asked")
    assert (head[:10], "1 failed" in head, title) == ("1 tests in", True, "### test_bf16_is_asked_of_the_device")
    assert any("device=abacus: not a device" in line for line in traceback)
