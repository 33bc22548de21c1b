"""Let the scripts of benchmarks/ import shared modules from their folder, as they do when they are started."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
