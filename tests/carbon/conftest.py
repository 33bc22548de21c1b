"""Time-outs with which the tests of the meter pass on a busy machine."""

import pytest
from fake_codecarbon import PATIENCE_SECONDS

from tfkit.carbon import Meter


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the meter wait for the sidecar as long as a busy machine may need, in tests without their own time-out."""
    for method in (Meter.stop, Meter.fresh_reading):
        monkeypatch.setattr(method, "__defaults__", (PATIENCE_SECONDS,))
