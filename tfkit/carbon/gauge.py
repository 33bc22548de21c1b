"""The probe in a separate thread: if it raises, hangs, exits or returns invalid values, `read` returns the last good totals in time."""

import threading
from collections.abc import Callable

from tfkit.carbon.probe import Machine, Probe
from tfkit.carbon.reading import Status, Totals

START_PATIENCE_SECONDS = 60.0  # importing pandas and reading the processor's name take 2 s, on a busy machine 20
READ_PATIENCE_SECONDS = 2.0


class Gauge:
    """Reads the probe on demand. All times are in seconds; `clock` is monotonic."""

    def __init__(self, make: Callable[[], Probe], clock: Callable[[], float]):
        self._make, self._clock = make, clock
        self._changed = threading.Condition()
        self._asked = self._answered = 0
        self._closing = self._closed = self._failed = False
        self._started_at = clock()
        self._totals = Totals()
        self._machine: Machine | None = None
        self._status: Status = "starting"
        self._complaints: list[str] = []
        threading.Thread(target=self._run, name="carbon-gauge", daemon=True).start()

    @property
    def machine(self) -> Machine | None:
        """The measured machine; None until the probe has started."""
        return self._machine

    @property
    def status(self) -> Status:
        """The status of the last reading."""
        if self._status == "starting" and self._clock() - self._started_at > START_PATIENCE_SECONDS:
            self._complain(f"CodeCarbon did not start within {START_PATIENCE_SECONDS:g} s")
        return self._status

    def complaints(self) -> list[str]:
        """Return the problems since the last call, and clear them."""
        with self._changed:
            complaints, self._complaints = self._complaints, []
        return complaints

    def read(self, patience: float = READ_PATIENCE_SECONDS, *, wait_for_start: bool = False) -> Totals:
        """Return the present totals, or the last good ones after `patience` seconds. A probe that is already late is not waited for."""
        with self._changed:
            deadline = self._clock() + patience
            if wait_for_start:
                self._changed.wait_for(lambda: self._machine is not None or self._failed, patience)
                if self._status == "starting":
                    self._complain("CodeCarbon had not started by the end")
            if self._machine is None or self._failed:
                return self._totals
            late = self._answered < self._asked
            if not late:
                self._asked += 1
                self._changed.notify_all()
            request = self._asked
            if not self._changed.wait_for(lambda: self._answered >= request, 0.0 if late else max(0.0, deadline - self._clock())):
                self._complain("CodeCarbon did not answer in time")
            return self._totals

    def close(self, patience: float) -> None:
        """Stop the probe, and wait for it for up to `patience` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or self._failed or self._machine is None, patience)

    def _run(self) -> None:
        try:
            probe = self._make()
            machine = probe.start()
        except BaseException as error:
            with self._changed:
                self._failed = True
                self._complain(f"CodeCarbon did not start: {_describe(error)}")
                self._changed.notify_all()
            return
        with self._changed:
            self._machine = machine
            self._status = "ok"
            self._changed.notify_all()
        while self._wait():
            self._answer(probe)
        try:
            probe.stop()
        except BaseException as error:
            self._complain(f"CodeCarbon did not stop: {_describe(error)}")
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wait(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._answered < self._asked or self._closing)
            return not self._closing

    def _answer(self, probe: Probe) -> None:
        totals, complaint = None, None
        try:
            totals = probe.read()
            complaint = totals.complaint(self._totals)
        except BaseException as error:
            complaint = _describe(error)
        with self._changed:
            if complaint or totals is None:
                self._complain(f"a reading of CodeCarbon was skipped: {complaint}")
            else:
                self._totals, self._status = totals, "ok"
            self._answered = self._asked
            self._changed.notify_all()

    def _complain(self, text: str) -> None:
        self._status = "degraded"
        if text not in self._complaints[-1:]:
            self._complaints = [*self._complaints, text][-10:]


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
