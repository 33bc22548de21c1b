"""The probe in a separate thread: if it raises, hangs, exits or returns invalid values, `read` returns the last good totals in time."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from tfkit.carbon.probe import CodeCarbonProbe, Machine
from tfkit.carbon.reading import Status, Totals

START_PATIENCE_SECONDS = 60.0  # importing pandas and reading the processor's name take 2 s, on a busy machine 20
READ_PATIENCE_SECONDS = 2.0


class Gauge:
    """Reads the probe on demand. All times are in seconds."""

    def __init__(self, make: Callable[[], CodeCarbonProbe]):
        self.status: Status = "starting"  # of the last reading
        self._totals = Totals()
        self._complaints: list[str] = []
        self._began = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "carbon-gauge")
        self._start = self._thread.submit(_start, make)
        self._reading: Future[Totals] | None = None  # the requested reading, until it is taken

    @property
    def machine(self) -> Machine | None:
        """The measured machine; None until the probe has started."""
        return self._start.result()[1] if self._start.done() and self._start.exception() is None else None

    def complaints(self) -> list[str]:
        """Return the problems since the last call, and clear them."""
        complaints, self._complaints = self._complaints, []
        return complaints

    def read(self, patience: float = READ_PATIENCE_SECONDS, *, wait_for_start: bool = False) -> Totals:
        """Return the present totals, or the last good ones after `patience` seconds. A probe that is already late is not waited for."""
        deadline = time.monotonic() + patience
        if wait_for_start:
            wait([self._start], patience)
        if self.machine is None:
            if self.status == "starting":
                self._complain_of_start(is_end=wait_for_start)
            return self._totals
        if self.status == "starting":
            self.status = "ok"
        if self._reading is not None and self._reading.done():
            self._take(self._reading)
        is_late = self._reading is not None
        reading = self._reading = self._reading or self._thread.submit(self._start.result()[0].read)
        wait([reading], 0.0 if is_late else max(0.0, deadline - time.monotonic()))
        if reading.done():
            self._take(reading)
        else:
            self._complain("CodeCarbon did not answer in time")
        return self._totals

    def close(self, patience: float) -> None:
        """Stop the probe, and wait for it for up to `patience` seconds."""
        if self.machine is not None:
            wait([self._thread.submit(self._start.result()[0].stop)], patience)

    def _take(self, reading: "Future[Totals]") -> None:
        self._reading = None
        try:
            totals = reading.result()
            complaint = totals.complaint(self._totals)
        except BaseException as error:
            complaint = _describe(error)
        if complaint:
            self._complain(f"a reading of CodeCarbon was skipped: {complaint}")
        else:
            self._totals, self.status = totals, "ok"

    def _complain_of_start(self, *, is_end: bool) -> None:
        if self._start.done():
            self._complain(f"CodeCarbon did not start: {_describe(self._start.exception())}")
        elif is_end:
            self._complain("CodeCarbon had not started by the end")
        elif time.monotonic() - self._began > START_PATIENCE_SECONDS:
            self._complain(f"CodeCarbon did not start within {START_PATIENCE_SECONDS:g} s")

    def _complain(self, text: str) -> None:
        self.status = "degraded"
        self._complaints.append(text)


def _start(make: Callable[[], CodeCarbonProbe]) -> tuple[CodeCarbonProbe, Machine]:
    probe = make()
    return probe, probe.start()


def _describe(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
