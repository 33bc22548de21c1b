"""A limit on the spinning of idle OpenMP threads, with which PyTorch computes: spinning occupies a core that another process may need.

GNU's OpenMP spins for milliseconds by default, which makes a training ten times slower beside one busy process on two cores. Without
spinning, an otherwise idle machine loses a third of its speed in training and most of it in generation, whose parallel regions are far
apart; with a short spin it loses little (benchmarks/contention.py; docs/log.md).
"""

import os
import sys

SPIN_COUNT = "10000"  # some hundred microseconds: longer than most gaps between parallel regions
_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def limit_spinning() -> None:
    """Limit spinning, unless the user's environment sets it. No effect once torch is loaded: OpenMP reads the setting when it loads."""
    if "torch" not in sys.modules and not any(name in os.environ for name in _SETTINGS):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
