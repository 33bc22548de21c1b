"""Makes the rows and runs of other folders' tests importable here, whichever tests are run."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "objectives"))
