"""The meter in the process that trains. It stores the latest reading of the sidecar, the process that runs CodeCarbon (sidecar.py).
The meter never raises or prints, and waits only in methods with a time-out. Two daemon threads read and write the pipes to the sidecar, so
the caller never waits for the pipes. No signal handler is installed.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tfkit.carbon.emissions_file import write_emissions
from tfkit.carbon.footprint import SUMS, Reading, Status
from tfkit.carbon.place import Place, broken_codecarbon_files, codecarbon_settings, resolve_place, series_of
from tfkit.carbon.totals import read_totals

if TYPE_CHECKING:
    from tfkit.recipe.schema.carbon_section import CarbonSection

CODECARBON = "tfkit.carbon.probe:CodeCarbonProbe"
STOP_SECONDS = 3.0  # the default time-out of `stop`, which waits for CodeCarbon's start, so that some energy is measured
LAST_READING_SECONDS = 0.5  # the time that `stop` needs for the last reading, if CodeCarbon has started
SILENCE_SECONDS = 90.0  # if the sidecar is silent for this time plus three intervals between readings, the meter's reading is out of date


class Meter:
    """The meter of a run, created by `Meter.start`. Each method returns at once or within its time-out."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self.began = time.monotonic()  # the attempt's start, on a clock that the sidecar shares
        self._changed = threading.Condition()
        self._reading = Reading()
        self._warning: str | None = None
        self._process: SidecarProcess | None = None
        self._asked = self._answered = 0
        self._ended = self._stopping = False
        self._heard_at, self._silence = time.monotonic(), SILENCE_SECONDS

    @classmethod
    def start(
        cls,
        section: "CarbonSection",
        *,
        folder: Path | None,
        run_id: str,
        attempt: int,
        project: str,
        phase: str = "setup",
        probe: str = CODECARBON,
        nodes: int = 1,
    ) -> Self:
        """Start the sidecar, and return within milliseconds, before CodeCarbon has started in the sidecar.

        `folder`: the run folder; None: no files are written. `attempt`: the index of this start of the run, from 1. `probe`: the class that
        reads CodeCarbon, as module:class; tests pass one with scripted readings. `nodes`: the number of nodes of the run, each with its own
        meter. If `section` disables the meter, its readings are the sums of the earlier attempts, with the status degraded, because they
        are a lower bound; the status is off if no earlier attempt was metered.
        """
        meter = cls()
        try:
            if folder is not None and attempt > 1:
                earlier = read_totals(folder, run_id)
                meter._reading = replace(earlier, status="degraded") if earlier.energy_wh else Reading()
            if section.enabled:
                spec = {"run_id": run_id, "attempt": attempt, "project": project, "phase": phase, "probe": probe, "nodes": nodes}
                meter._launch(section, folder, spec)
            elif folder is not None:
                write_emissions(folder)
        except Exception as error:
            measured = section.enabled or meter._reading.energy_wh > 0
            meter._degrade(f"the carbon meter could not start: {error}", "degraded" if measured else "off")
        return meter

    @classmethod
    def on_node(cls, facts: dict[str, Any]) -> Self:
        """Start the meter of a node other than that of rank 0. `facts`: the arguments of `start` as rank 0 sent them, with `section` under
        the name `carbon`. The meters of all nodes write their ledgers to the same folder.
        """
        from tfkit.recipe.schema.carbon_section import CarbonSection

        folder = None if facts["folder"] is None else Path(facts["folder"])
        given = {name: value for name, value in facts.items() if name not in ("carbon", "folder")}
        return cls.start(CarbonSection.model_validate(facts["carbon"]), folder=folder, **given)

    def phase(self, name: str, step: int | None = None) -> None:
        """Attribute the energy to the phase `name` from now on (setup, tokenize, train, evaluate, checkpoint, finish, ...).

        `step`: the step whose checkpoint was just saved or loaded, or whose evaluation was just recorded; None: no step. If work after
        this moment is lost by a kill, and repeated, its energy counts as rework.
        """
        self._command({"do": "phase", "name": name, "step": step, "at": time.monotonic()})

    def reading(self) -> Reading:
        """Return the latest totals of the run, including earlier attempts: usually at most carbon.every_seconds old. If the
        sidecar has sent nothing for SILENCE_SECONDS + 3 x carbon.every_seconds, the status ok becomes degraded, and `failing` is set.
        """
        if self._forked:
            return self._reading
        with self._changed:
            silent = time.monotonic() - self._heard_at > self._silence and not self._ended
            return replace(self._reading, status="degraded", failing=True) if silent and self._reading.status == "ok" else self._reading

    def extrapolated_reading(self) -> Reading:
        """Return the latest totals, extrapolated to now at the latest power. Totals that are out of date are returned unchanged."""
        reading = self.reading()
        if self._process is None or self._ended or reading.failing or not reading.energy_wh:
            return reading
        seconds = time.monotonic() - self._heard_at
        added_wh = reading.power_w * seconds / 3600
        grams = reading.emissions_g * (1 + added_wh / reading.energy_wh)
        return replace(reading, energy_wh=reading.energy_wh + added_wh, emissions_g=grams, seconds=reading.seconds + seconds)

    def fresh_reading(self, timeout: float = 3.0) -> Reading:
        """Return the present totals, or the latest received ones if the sidecar does not answer within `timeout` seconds."""
        if self._process is None or self._forked:
            return self._reading
        with self._changed:
            self._asked += 1
            token = self._asked
        self._command({"do": "read", "token": token, "timeout": timeout})
        with self._changed:
            self._changed.wait_for(lambda: self._answered >= token or self._ended, timeout)
        return self.reading()

    @property
    def seconds_to_stop(self) -> float:
        """The time in seconds to allow for `stop` if it was called now; it takes longer only if the sidecar does not answer."""
        if self._process is None or self._ended:
            return 0.0
        return STOP_SECONDS if self.reading().status == "starting" else LAST_READING_SECONDS

    def stop(self, timeout: float = STOP_SECONDS) -> Reading:
        """End the last phase and the sidecar, and return the totals. The sidecar first writes its files; it is killed if this takes longer
        than `timeout` seconds. A second call has no effect.
        """
        process = self._process
        if process is None or self._forked:
            return self._reading
        with self._changed:
            first, self._stopping = not self._stopping, True
        if first:
            process.send({"do": "stop", "timeout": timeout})
            with self._changed:
                self._changed.wait_for(lambda: self._ended, timeout)
                ended = self._ended
            if not ended:
                self._degrade(f"the carbon meter did not stop within {timeout:g} s and was ended; the last tick of the ledger counts")
            process.end()
        return self._reading

    def warning(self) -> str | None:
        """Return the problems since the last call as text, and clear them; None if there were none."""
        if self._forked:
            return None
        with self._changed:
            warning, self._warning = self._warning, None
        return warning

    @property
    def _forked(self) -> bool:
        """Whether this meter is a copy in a forked process, which must not use the pipes."""
        return os.getpid() != self._pid

    def _launch(self, section: "CarbonSection", folder: Path | None, spec: dict[str, Any]) -> None:
        try:
            place, series = resolve_place(section), series_of(section)
        except Exception as error:  # only a warning: commands that refuse an invalid place call resolve_place before they start the meter
            place, series = Place(), None
            self._degrade(str(error), "starting")
        for problem in broken_codecarbon_files():
            self._warn(problem)
        self._reading = replace(self._reading, status="starting", place=place.describe())
        self._silence += 3 * section.every_seconds
        spec |= {
            "folder": str(folder.resolve()) if folder else None,
            "place": asdict(place) | {"text": place.describe()},
            "series": asdict(series) if series else None,
            "pue": section.pue,
            "every_seconds": section.every_seconds,
            "settings": {name: value for name, value in codecarbon_settings().items() if name in ("force_cpu_power", "force_ram_power")},
            "started": time.time(),
            "began": self.began,
            "parent": os.getpid(),
        }
        self._process = SidecarProcess.start(spec, self._receive, self._end)

    def _command(self, command: dict[str, Any]) -> None:
        if self._process is not None and not self._forked and not self._stopping:
            self._process.send(command)

    def _receive(self, message: dict[str, Any]) -> None:
        with self._changed:
            self._heard_at = time.monotonic()
            if "failed" in message:
                return self._degrade(f"the carbon meter failed: {message['failed']}")
            names = (*SUMS, "power_w", "status", "provenance", "failing")
            self._reading = replace(self._reading, **{name: message[name] for name in names})
            self._answered = max(self._answered, message["token"])
            if message.get("warning"):
                self._warn(message["warning"])
            self._changed.notify_all()

    def _end(self) -> None:
        with self._changed:
            if not self._stopping:
                self._degrade("the carbon meter's process ended early; its readings until then count")
            self._ended = True
            self._changed.notify_all()

    def _degrade(self, text: str, status: Status = "degraded") -> None:
        with self._changed:
            self._reading = replace(self._reading, status=status, failing=status == "degraded")
            self._warn(text)

    def _warn(self, text: str) -> None:
        self._warning = text if self._warning is None else f"{self._warning}; {text}"[:2000]


Receive = Callable[[dict[str, Any]], None]


class SidecarProcess:
    """The sidecar as a child process. A thread calls `receive` with each message from it, and `ended` after the last message."""

    def __init__(self, process: "subprocess.Popen[bytes]", receive: Receive, ended: Callable[[], None]):
        self._process, self._receive, self._ended = process, receive, ended
        self._commands: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.pid, self.poll = process.pid, process.poll

    @classmethod
    def start(cls, spec: dict[str, Any], receive: Receive, ended: Callable[[], None]) -> Self:
        """Start the process, and send it `spec`, the description of the attempt, as the first message (sidecar.py)."""
        sidecar = cls(_spawn(), receive, ended)
        sidecar.send(spec)
        for target in (sidecar._write, sidecar._read):
            threading.Thread(target=target, name="carbon-meter", daemon=True).start()
        return sidecar

    def send(self, command: dict[str, Any]) -> None:
        """Queue a command, which is written as soon as the pipe accepts it."""
        self._commands.put(command)

    def end(self) -> None:
        """Kill the process if it is still running."""
        with contextlib.suppress(Exception):
            self._process.kill()
            self._process.wait(1.0)
        self._commands.put(None)

    def _write(self) -> None:
        """Write the queued commands. This runs in a thread, which may wait for the pipe, and ends if the pipe breaks."""
        assert self._process.stdin is not None
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})  # SIGPIPE would end the training if it has its default action
        with contextlib.suppress(OSError, ValueError), self._process.stdin as pipe:
            while (command := self._commands.get()) is not None:
                pipe.write(json.dumps(command).encode() + b"\n")
                pipe.flush()

    def _read(self) -> None:
        """Read the messages until the pipe ends. This runs in a thread."""
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError), self._process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    self._receive(json.loads(line))
        self._ended()


def _spawn() -> "subprocess.Popen[bytes]":
    """Start the sidecar with this process's import path and without thread pools, in a session of its own, which Ctrl-C does not reach."""
    quiet = {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    imports = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    # The sidecar inherits this mask, so these signals cannot end it before it ignores them. This process gets blocked signals afterwards.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "tfkit.carbon.sidecar"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | quiet | {"PYTHONPATH": imports},
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
