"""The way from the command to the first step of a training is no longer than it was; benchmarks/files_before_step.py shows it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "files_before_step.py"


@pytest.mark.thorough
@pytest.mark.parametrize(("options", "most"), [([], 107), (["--predict"], 112)])
def test_no_more_files_than_before(options: list[str], most: int) -> None:
    """A new file on the way is a decision: raise the number with the reason, or keep it beside the way."""
    done = subprocess.run([sys.executable, str(SCRIPT), "--json", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"training/step.py", "engine/training_run/run.py"} <= set(found) or options
    assert len(found) <= most, found
