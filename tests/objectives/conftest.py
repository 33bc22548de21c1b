"""Make the devices' tasks, one of every objective, importable here, whichever tests are selected."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "devices"))
