"""Limit how long the idle OpenMP threads of PyTorch spin (wait actively), since a spinning thread occupies a core that others may need.

By default, GNU's OpenMP spins for milliseconds: on two cores, a training is then ten times slower while another process is busy. Without
any spinning, a training on an otherwise idle machine loses a third of its speed, and generation, whose parallel regions are far apart, most
of it. With a short spin, both lose little (benchmarks/contention.py; docs/log.md).
"""

import os
import sys

SPIN_COUNT = "10000"  # some hundred microseconds: longer than most gaps between parallel regions
_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def limit_spinning() -> None:
    """Limit spinning, unless the user's environment has a setting for it, or torch was imported before, and has read the settings."""
    if "torch" not in sys.modules and not any(name in os.environ for name in _SETTINGS):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
