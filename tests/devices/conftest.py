"""The objectives' made rows and the tiny models that write are in the folders of their own tests."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("objectives", "generation")]
