"""The sidecar, a process that reads CodeCarbon, writes the run's ledger and emissions.csv, and outlives a killed trainer.

stdin has one JSON object per line: first the spec (the description of the attempt), then commands: {"do": "phase", "name": ..., "step":
..., "at": ...}, {"do": "read", "token": n, "timeout": s}, {"do": "stop", "timeout": s}. stdout has a reading every few seconds and for
each command. After a stop, when stdin ends, or when the trainer is no longer the parent process, the sidecar takes a last reading, writes
its files, and exits. The trainer's exit alone may not end stdin, since a forked worker of it may keep the pipe open.
"""

import contextlib
import importlib
import json
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from tfkit.carbon.attempt_files import AttemptFiles, estimate_line, tick_line
from tfkit.carbon.footprint import ENERGIES, Totals, describe_sources
from tfkit.carbon.intensity_series import IntensityCorrection
from tfkit.carbon.probe import READ_PATIENCE_SECONDS, Gauge

POLL_SECONDS = 0.5  # the longest time between checks whether CodeCarbon has started and the trainer is still alive
EXIT_SECONDS = 0.5  # the part of a command's time-out that is reserved for writing and exiting
FIRST_SECONDS = 0.5  # the measured time that an estimate of the energy before CodeCarbon's start needs; a quarter at the last reading
Send = Callable[[dict[str, Any]], None]


class Sidecar:
    """The measurement of an attempt. `spec`: the meter's first message, describing the attempt; `send` sends a reading without blocking."""

    def __init__(self, spec: dict[str, Any], send: Send):
        self._spec, self._send = spec, send
        self._phase = str(spec["phase"])
        self._began = float(spec["began"])
        self._totals, self._measured, self._power_w, self._seconds = Totals(), (0.0, 0.0), 0.0, 0.0
        self._estimate: dict[str, Any] | None = None
        self._warnings: list[str] = []
        self._correction = IntensityCorrection(spec["series"], spec["place"]["intensity_g_per_kwh"], float(spec["started"]) - self._began)
        self._warned_of_series_end = False
        self._warned_of_codecarbon = False
        module, _, probe = spec["probe"].partition(":")
        self._gauge = Gauge(lambda: getattr(importlib.import_module(module), probe)(spec))
        self._files = AttemptFiles(spec, lambda text: self._warnings.append(text))

    def run(self, commands: "queue.SimpleQueue[dict[str, Any]]") -> None:
        """Take readings and execute commands until the command `stop`, or until the trainer has exited."""
        self._tick()
        every = float(self._spec["every_seconds"])
        next_tick = time.monotonic() + every
        while True:
            starting = self._gauge.machine is None
            command = None
            with contextlib.suppress(queue.Empty):
                command = commands.get(timeout=min(POLL_SECONDS, max(0.0, next_tick - time.monotonic())))
            do = command.get("do") if command else None
            if do == "stop" or os.getppid() != self._spec["parent"]:
                return self._stop(float(command["timeout"]) if command and do == "stop" else READ_PATIENCE_SECONDS + EXIT_SECONDS)
            if command and do == "phase":
                self._tick(at=float(command["at"]), step=command["step"])
                self._phase = str(command["name"])
            elif command and do == "read":
                self._tick(patience=max(0.0, float(command["timeout"]) - EXIT_SECONDS), token=int(command["token"]))
            elif time.monotonic() >= next_tick or (starting and self._gauge.machine is not None):
                self._tick()
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + every

    def _stop(self, timeout: float) -> None:
        deadline = time.monotonic() + max(0.0, timeout - EXIT_SECONDS)
        self._totals = self._correction.correct(self._gauge.read(deadline - time.monotonic(), wait_for_start=True))
        missing = FIRST_SECONDS - self._totals.measured_seconds
        if self._gauge.status == "ok" and 0 < missing < deadline - time.monotonic():
            time.sleep(missing)  # so that some energy is measured even in a run that ends just after CodeCarbon's start
            self._totals = self._correction.correct(self._gauge.read(deadline - time.monotonic()))
        self._tick(final=True)
        self._gauge.close(min(0.3, max(0.0, deadline - time.monotonic())))

    def _tick(
        self,
        *,
        at: float | None = None,
        step: int | None = None,
        patience: float = READ_PATIENCE_SECONDS,
        token: int = 0,
        final: bool = False,
    ) -> None:
        """Take a reading, send it to the meter, and write it to the ledger.

        `at`: the moment of a change of phase, on the monotonic clock; None: now. `step`: a step whose checkpoint was just saved or loaded,
        or whose evaluation was recorded. `patience`: the longest wait for CodeCarbon, in seconds. `token`: the id of the command `read`
        that this reading answers. `final`: the last reading, for which `_stop` has already read CodeCarbon.
        """
        if not final:
            self._totals = self._correction.correct(self._gauge.read(patience))
        now = time.monotonic()
        moment = now if at is None else min(max(at, now - 10.0), now)
        self._seconds = seconds = max(self._seconds, moment - self._began)
        self._update_power()
        complaints, status = self._gauge.complaints(), self._gauge.status
        if complaints and not self._warned_of_codecarbon:
            kept = ", and the ledger records this" if self._spec["folder"] else ""
            self._warnings.append(f"{complaints[0]}; only the measurement is affected{kept}")
            self._warned_of_codecarbon = True
        wall = time.time() - (now - moment)
        line = tick_line(wall, self._phase, seconds, self._totals, self._power_w, status, "; ".join(complaints) or None, step)
        line |= self._correction.take_fields()
        if self._correction.is_past_end and not self._warned_of_series_end:
            self._warnings.append("carbon.intensity_file has ended; its last value is used from now on, and the ledger records this")
            self._warned_of_series_end = True
        estimate = self._make_estimate(now - self._began, final)
        if not final:
            self._send(self._reading(line, token))
        # emissions.csv is not written at a change of phase, since phases may change many times per second.
        self._files.write(line, estimate, self._gauge.machine, derive=at is None)
        if final:
            self._send(self._reading(line, token))

    def _make_estimate(self, seconds: float, final: bool) -> dict[str, Any] | None:
        """Return the ledger's line that estimates the energy before CodeCarbon's start, in the first call with a known power; else None.

        `seconds`: the time from the attempt's start to the latest reading. `final`: whether this is the last reading, for which a shorter
        measurement of the power suffices.
        """
        has_power = self._totals.energy_wh > 0 and self._totals.measured_seconds >= (FIRST_SECONDS / 4 if final else FIRST_SECONDS)
        if self._estimate is not None or not has_power:
            return None
        self._estimate = estimate_line(max(0.0, seconds - self._totals.measured_seconds), self._totals)
        return self._estimate

    def _update_power(self) -> None:
        previous_seconds, previous_energy = self._measured
        seconds, energy = self._totals.measured_seconds - previous_seconds, self._totals.energy_wh - previous_energy
        if seconds >= 0.5:  # long enough for a precise mean power
            self._power_w = energy * 3600 / seconds
            self._measured = self._totals.measured_seconds, self._totals.energy_wh

    def _reading(self, line: dict[str, Any], token: int) -> dict[str, Any]:
        machine, warnings = self._gauge.machine, self._warnings
        self._warnings = []
        estimate = self._estimate or {}
        others = self._files.sums_of_other_nodes()
        sums = {name: self._files.earlier[name] + line[name] + estimate.get(name, 0.0) + others.get(name, 0.0) for name in ENERGIES}
        sums["seconds"] = self._files.earlier["seconds"] + line["seconds"]
        status = "degraded" if line["status"] == "ok" and self._files.earlier_degraded else line["status"]
        reading = sums | {"power_w": line["power_w"], "status": status, "token": token, "failing": line["status"] == "degraded"}
        reading["provenance"] = describe_sources(machine.components) if machine else ""
        return reading | ({"warning": "; ".join(warnings)[:400]} if warnings else {})


def _listen(stdin: int, commands: "queue.SimpleQueue[dict[str, Any]]") -> None:
    """Put each command of the meter into the queue `commands`, and the command `stop` when the pipe from the meter ends."""
    with contextlib.suppress(OSError), os.fdopen(stdin, "rb") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):
                commands.put(json.loads(line))
    commands.put({"do": "stop", "timeout": READ_PATIENCE_SECONDS + EXIT_SECONDS})


def _sender(stdout: int) -> Send:
    os.set_blocking(stdout, False)

    def send(message: dict[str, Any]) -> None:
        # A line is shorter than PIPE_BUF (4 KiB), so it is written completely, or not at all if the pipe is full.
        with contextlib.suppress(OSError):
            os.write(stdout, json.dumps(message).encode() + b"\n")

    return send


def _leave_terminal() -> tuple[int, int]:
    """Return copies of the pipes from and to the meter, and redirect stdin, stdout and stderr, which CodeCarbon may use, to os.devnull."""
    stdin, stdout = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    return stdin, stdout


def main() -> NoReturn:
    """Run until the trainer stops the sidecar or exits; then exit, even if a thread hangs."""
    numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)  # only the trainer ends this process
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)  # the trainer blocked these signals while it started this process
    stdin, stdout = _leave_terminal()
    os.chdir(os.sep)  # so that the user's folder can be unmounted, and CodeCarbon finds no .codecarbon.config
    send, commands = _sender(stdout), queue.SimpleQueue[dict[str, Any]]()
    threading.Thread(target=_listen, args=(stdin, commands), daemon=True).start()
    try:
        Sidecar(commands.get(), send).run(commands)
    except BaseException as error:
        send({"failed": f"{type(error).__name__}: {error}"[:400]})
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
