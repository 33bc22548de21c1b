"""Tests of the meter, on machines that are busy with other things."""

import pytest
from fake_codecarbon import PATIENCE_SECONDS

from tfkit.carbon import Meter


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the sidecar as long as a busy machine may need, in tests without a time-out of their own."""
    for method in (Meter.stop, Meter.fresh_reading):
        monkeypatch.setattr(method, "__defaults__", (PATIENCE_SECONDS,))
