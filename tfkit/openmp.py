"""Limit how long the idle OpenMP threads of PyTorch spin (wait actively): a spinning thread occupies a core that another process may need.

By default, GNU's OpenMP spins for milliseconds: on two cores, a training is then ten times slower while another process is busy. Without
any spinning, on an otherwise idle machine, a training loses a third of its speed, and generation loses most of its speed, because its
parallel regions are far apart. With a short spin, both lose little (benchmarks/contention.py; docs/log.md).
"""

import os
import sys

SPIN_COUNT = "10000"  # a few hundred microseconds: longer than most gaps between parallel regions
_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def limit_spinning() -> None:
    """Limit spinning, unless an environment variable already sets it, or torch was imported before and has read these variables."""
    if "torch" not in sys.modules and not any(name in os.environ for name in _SETTINGS):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
