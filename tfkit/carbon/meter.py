"""The meter as training sees it: numbers ready to read, and nothing that can raise, wait or print. CodeCarbon runs in the sidecar."""

import os
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tfkit.carbon.emissions_file import write_emissions
from tfkit.carbon.intensity_series import IntensitySeries
from tfkit.carbon.place import Place, codecarbon_settings, resolve_place, series_of
from tfkit.carbon.reading import SUMMED, Reading, Status
from tfkit.carbon.sidecar_process import SidecarProcess
from tfkit.carbon.totals import read_totals

if TYPE_CHECKING:
    from tfkit.recipe.schema.carbon_section import CarbonSection

CODECARBON = "tfkit.carbon.probe:CodeCarbonProbe"
SILENCE_SECONDS = 90.0  # after this and three ticks without a message, the readings are not current


class Meter:
    """Created by `Meter.start`. Every method returns at once, `fresh_reading` and `stop` within their time-outs."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self.began = time.monotonic()  # a monotonic clock for all processes
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
        """Start the sidecar and return, some milliseconds later; CodeCarbon starts while the caller does.

        `folder` is the run folder, or None to write no files. `attempt` counts the run's starts from 1. `probe` names the class that reads
        the power, as module:class; tests pass a scripted one. `nodes`: the machines of the run, each with a meter of its own. A disabled
        section gives a meter that is off; in a run that was metered before, the earlier sums stay its total, a lower bound from then on.
        """
        meter = cls()
        try:
            if folder is not None:
                before = read_totals(folder, run_id)
                meter._reading = replace(before, status="degraded") if before.energy_wh else Reading()
            if section.enabled:
                own = {"run_id": run_id, "attempt": attempt, "project": project, "phase": phase, "probe": probe, "nodes": nodes}
                meter._launch(section, folder, own)
            elif folder is not None:
                write_emissions(folder)
        except Exception as error:
            measured = section.enabled or meter._reading.energy_wh > 0
            meter._degrade(f"the carbon meter could not start: {error}", "degraded" if measured else "off")
        return meter

    def phase(self, name: str, step: int | None = None) -> None:
        """Attribute the energy to this phase from now on (setup, tokenize, train, evaluate, checkpoint, finish, ...).

        `step`: the run can continue after that step, because its checkpoint was just saved or resumed from. Later work that is lost
        counts as rework.
        """
        self._command({"do": "phase", "name": name, "step": step, "at": time.monotonic()})

    def reading(self) -> Reading:
        """Return the latest totals, at most a tick old; earlier attempts of this run are included."""
        if self._forked:
            return self._reading
        with self._changed:
            silent = time.monotonic() - self._heard_at > self._silence and not self._ended
            return replace(self._reading, status="degraded", failing=True) if silent and self._reading.status == "ok" else self._reading

    def carried_on(self) -> Reading:
        """Return the latest totals with what was used since, at the latest power; as they are where no reading is current."""
        reading = self.reading()
        if self._process is None or self._ended or reading.failing or not reading.energy_wh:
            return reading
        seconds = time.monotonic() - self._heard_at
        more = reading.power_w * seconds / 3600
        grams = reading.emissions_g * (1 + more / reading.energy_wh)
        return replace(reading, energy_wh=reading.energy_wh + more, emissions_g=grams, seconds=reading.seconds + seconds)

    def fresh_reading(self, timeout: float = 3.0) -> Reading:
        """Return the totals as of now; the latest ones if the sidecar does not answer in time."""
        if self._process is None or self._forked:
            return self._reading
        with self._changed:
            self._asked += 1
            token = self._asked
        self._command({"do": "read", "token": token, "timeout": timeout})
        with self._changed:
            self._changed.wait_for(lambda: self._answered >= token or self._ended, timeout)
        return self.reading()

    def stop(self, timeout: float = 3.0) -> Reading:
        """End the last phase, write the files, end the sidecar (kill it after `timeout`), and return the final totals. Idempotent."""
        process = self._process
        if process is None or self._forked:
            return self._reading
        with self._changed:
            first, self._stopping = not self._stopping, True
        if first:
            process.send({"do": "stop", "timeout": timeout})
            with self._changed:
                self._changed.wait_for(lambda: self._ended, timeout)
                left = self._ended
            if not left:
                self._degrade(f"the carbon meter did not stop within {timeout:g} s and was ended; the last tick of the ledger counts")
            process.end()
        return self._reading

    def warning(self) -> str | None:
        """Return and clear what went wrong since the last call; None: nothing."""
        if self._forked:
            return None
        with self._changed:
            warning, self._warning = self._warning, None
        return warning

    @property
    def _forked(self) -> bool:
        """Whether this is a copy in a forked worker, which has the pipes' ends and must not use them."""
        return os.getpid() != self._pid

    def _launch(self, section: "CarbonSection", folder: Path | None, spec: dict[str, Any]) -> None:
        place, series, complaint = _place(section)
        self._reading = replace(self._reading, status="starting", place=place.describe())
        if complaint:
            self._degrade(complaint, "starting")
        self._silence += 3 * section.every_seconds
        self._process = SidecarProcess.start(spec | _facts(section, folder, place, series, self.began), self._take, self._end)

    def _command(self, command: dict[str, Any]) -> None:
        if self._process is not None and not self._forked and not self._stopping:
            self._process.send(command)

    def _take(self, message: dict[str, Any]) -> None:
        with self._changed:
            self._heard_at = time.monotonic()
            if "failed" in message:
                return self._degrade(f"the carbon meter failed: {message['failed']}")
            names = (*SUMMED, "power_w", "status", "provenance", "failing")
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


def _facts(section: "CarbonSection", folder: Path | None, place: Place, series: IntensitySeries | None, began: float) -> dict[str, Any]:
    """Return what the sidecar is to know of the recipe, of the place and of this process."""
    return {
        "folder": str(folder.resolve()) if folder else None,
        "place": asdict(place) | {"text": place.describe()},
        "series": asdict(series) if series else None,
        "pue": section.pue,
        "every_seconds": section.every_seconds,
        "settings": {name: value for name, value in codecarbon_settings().items() if name in ("force_cpu_power", "force_ram_power")},
        "started": time.time(),
        "began": began,
        "parent": os.getpid(),
    }


def _place(section: "CarbonSection") -> tuple[Place, IntensitySeries | None, str | None]:
    """Return the place, or the world average and the error in the given one: a command that rejects it resolves it first."""
    try:
        return resolve_place(section), series_of(section), None
    except Exception as error:
        return Place(), None, str(error)
