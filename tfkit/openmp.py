"""The idle threads of OpenMP, which PyTorch computes with: they spin before they sleep, on a core that another process may need.

GNU's OpenMP spins for milliseconds unless it is asked not to: beside one busy process on two cores a training is ten times slower then.
Sleeping at once costs a machine that has nothing else to do a third of its speed in training and most of it in generation, whose parallel
parts are far apart; a spin in between costs it little (benchmarks/contention.py; docs/log.md).
"""

import os
import sys

SPINS = "10000"  # some hundred microseconds: longer than most gaps between parallel parts
_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def bound_spinning() -> None:
    """Bound the spinning, unless the user's environment sets it. The library reads it once: with torch loaded it is too late."""
    if "torch" not in sys.modules and not any(name in os.environ for name in _SETTINGS):
        os.environ["GOMP_SPINCOUNT"] = SPINS
