"""The scripts of benchmarks/ import what they share from beside them, as they do when they are started."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
