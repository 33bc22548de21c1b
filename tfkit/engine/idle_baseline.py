"""The idle power of the machine, measured before the training, as arXiv 2211.02001 reports it for BLOOM."""

import time

from tfkit.carbon import Meter
from tfkit.engine.listener import Listener, StopRequest

PHASE = "idle"
_LOOK_SECONDS = 0.05


def measure_idle(meter: Meter, seconds: float, listener: Listener, stop: StopRequest) -> None:
    """Wait idly for `seconds`, once the meter has started, in a phase of its own; not without a meter. Raises Stopped."""
    if not seconds or meter.reading().status == "off":
        return
    listener.say(f"measuring the idle machine for {seconds:g} s")
    with stop.at_once("nothing was trained yet"):
        while meter.reading().status == "starting":
            _wait(_LOOK_SECONDS, stop)
        if meter.reading().status == "ok":
            meter.phase(PHASE)
            _wait(seconds, stop)
            meter.phase("setup")


def _wait(seconds: float, stop: StopRequest) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        stop.raise_if_requested("nothing was trained yet")
        time.sleep(min(left, _LOOK_SECONDS))
