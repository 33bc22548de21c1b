"""Make the rows and runs of other folders' tests importable here, whichever tests are selected."""

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("objectives", "devices")]
