"""The tested device, computing deterministically as in a run; and the paths of these tests' helpers."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from pretended_device import pretended

from tfkit.training.device import make_deterministic, pick_device

# the objectives' rows and the tiny models that generate are in the folders of their own tests
sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("objectives", "generation")]


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Return the device of --device."""
    found = pick_device(request.config.getoption("--device"))
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    make_deterministic(found)
    yield found
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.fixture
def elsewhere(device: torch.device) -> AbstractContextManager[torch.device]:
    """Return a block in which a device other than the CPU is at work: that of --device, or the pretended one."""
    return nullcontext(device) if device.type != "cpu" else pretended()
