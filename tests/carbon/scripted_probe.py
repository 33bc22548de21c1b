"""Probes with a constant power of 36 W (0.01 Wh per second) at 100 g/kWh, some of which fail. The sidecar imports them by name."""

import sys
import time

from tfkit.carbon.footprint import Totals
from tfkit.carbon.probe import Machine

HANG_SECONDS = 600.0  # far beyond any time that a busy machine may need
EXIT_SECONDS = 30.0  # the part of Meter.stop's time-out for the sidecar's last work, which takes 0.5 s on a machine that is not busy
POWER_W = 36.0
G_PER_KWH = 100.0


def totals(seconds, energy_wh=None):
    energy = POWER_W * seconds / 3600 if energy_wh is None else energy_wh
    return Totals(seconds, energy, energy / 4, 0.0, energy * 3 / 4, energy * G_PER_KWH / 1000, 50.0, 0.0, 25.0, 1.5)


class Steady:
    def __init__(self, spec):
        self.reads = 0

    def start(self):
        self.began = time.monotonic()
        return Machine({"cpu": "model", "ram": "constant"}, {"cpu_count": 2, "cpu_model": "Abacus 9", "gpu_model": "", "longitude": None})

    def read(self):
        self.reads += 1
        return self.spoil(time.monotonic() - self.began)

    def spoil(self, seconds):
        return totals(seconds)

    def stop(self):
        pass


class RaisingConstructor(Steady):
    def __init__(self, spec):
        raise RuntimeError("no meter here")


class ExitingStart(Steady):
    def start(self):
        raise SystemExit(3)


class HangingStart(Steady):
    def start(self):
        sys.modules["__main__"].EXIT_SECONDS = EXIT_SECONDS  # in the sidecar, which is the main module
        time.sleep(HANG_SECONDS)


class SlowStart(Steady):
    """A probe that starts only after Meter.stop was called."""

    def start(self):
        time.sleep(2.0)
        return super().start()


class Spoiled(Steady):
    """A probe whose readings are invalid after the second one."""

    bad = None

    def spoil(self, seconds):
        return self.worse(seconds) if self.reads > 2 else totals(seconds)

    def worse(self, seconds):
        return totals(seconds, self.bad)


NotANumber, Infinite, Negative, Falling = (
    type("SpoiledEnergy", (Spoiled,), {"bad": energy_wh}) for energy_wh in (float("nan"), float("inf"), -1.0, 0.0)
)


class HangingRead(Spoiled):
    def worse(self, seconds):
        time.sleep(HANG_SECONDS)


class Nothing(Spoiled):
    def worse(self, seconds):
        return None


class Raising(Spoiled):
    def worse(self, seconds):
        raise OSError("the counter is gone")


class Recovering(Steady):
    def spoil(self, seconds):
        if self.reads == 3:
            raise OSError("a hiccup")
        return totals(seconds)
