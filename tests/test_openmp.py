"""The bounded spin of idle threads: set before torch loads, and never over what the user set."""

import os
import subprocess
import sys

import pytest

from tfkit.openmp import SPIN_COUNT, limit_spinning


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP")
def test_the_library_of_torch_reads_it() -> None:
    """`import tfkit` is early enough: libgomp shows its settings as it loads."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_", "KMP_"))}
    command = [sys.executable, "-c", "import tfkit, torch"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=settings | {"OMP_DISPLAY_ENV": "VERBOSE"})
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this build of torch has another OpenMP")
    assert f"GOMP_SPINCOUNT = '{SPIN_COUNT}'" in done.stderr


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"])
def test_a_user_s_own_setting_wins(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv(name, "7")
    limit_spinning()
    assert os.environ.get("GOMP_SPINCOUNT") == ("7" if name == "GOMP_SPINCOUNT" else None)


def test_with_torch_loaded_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch  # noqa: F401

    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    limit_spinning()
    assert "GOMP_SPINCOUNT" not in os.environ
