"""The idle threads of OpenMP, which PyTorch computes with: they spin before they sleep, on a core that another process may need.

GNU's OpenMP spins for milliseconds unless it is asked not to: beside one busy process on two cores a training is three times slower
then. Sleeping at once costs a fifth of the speed of a machine that has nothing else to do (benchmarks/contention.py).
"""

import os
import sys

SPINS = "1000"  # tens of microseconds: longer than the gaps between the parallel parts of a step
_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def bound_spinning() -> None:
    """Bound the spinning, unless the user's environment sets it. The library reads it once: with torch loaded it is too late."""
    if "torch" not in sys.modules and not any(name in os.environ for name in _SETTINGS):
        os.environ["GOMP_SPINCOUNT"] = SPINS
