"""The probe, which wraps CodeCarbon, and the gauge, which reads the probe. Only this module imports CodeCarbon, and only in the sidecar, a
process of its own (sidecar.py). Only one thread measures energy: the period of CodeCarbon's own timer is set to be longer than any run,
and each tick of the sidecar calls `flush()`. A `flush()` during a measurement by the timer would count time twice.
"""

import contextlib
import dataclasses
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, cast

from tfkit.carbon.footprint import Status, Totals

NEVER_SECONDS = 10 * 365 * 86400.0
START_PATIENCE_SECONDS = 60.0  # CodeCarbon's start takes 2 s (it imports pandas), and 20 s on a busy machine
READ_PATIENCE_SECONDS = 2.0


@dataclass(frozen=True)
class Machine:
    """The machine whose energy is measured, as CodeCarbon describes it."""

    components: dict[str, str]  # how the energy of cpu, gpu and ram is obtained: counter, model, constant or user
    record: dict[str, Any]  # the fields of CodeCarbon's first record, which fill columns of emissions.csv
    tdp_w: float | None = None  # the full-load power of the CPUs in CodeCarbon's model; None: not known, or a counter measures their energy


class CodeCarbonProbe:
    """Wraps CodeCarbon's OfflineEmissionsTracker, of which only the constructor, start, flush, stop and an output handler are used.

    The `Gauge` calls the methods from one thread. Every method may raise or hang.
    """

    def __init__(self, spec: dict[str, Any]):
        self._spec = spec
        self._record: Any = None
        self._log = LastError()

    def start(self) -> Machine:
        """Import and start CodeCarbon, and take a first reading. Raises CodeCarbon's errors, and RuntimeError if it gives no reading."""
        refuse_network()
        settings = self._spec.get("settings", {})
        for name in [name for name in os.environ if name.lower().startswith("codecarbon_")]:
            del os.environ[name]  # these variables may enable uploads; permitted settings are passed as arguments
        os.environ["HOME"] = os.sep  # so that an invalid ~/.codecarbon.config does not prevent readings
        try:
            tempfile.gettempdir()
        except FileNotFoundError:  # no folder is writable, as on a full disk; CodeCarbon needs a path for a lock file, which is not used
            tempfile.tempdir = os.sep
        self._tracker = self._construct(settings)
        self._tracker.start()
        self.read()
        from codecarbon.core.cpu import is_rapl_available  # type: ignore[import-untyped,unused-ignore]

        components = {"gpu": "counter"} if self._record.gpu_count else {}
        components |= {"cpu": "counter" if is_rapl_available() else "model", "ram": "constant"}
        components |= {part: "user" for part in ("cpu", "ram") if settings.get(f"force_{part}_power")}
        tdp_w = None if components["cpu"] == "counter" else _watts(settings, "force_cpu_power") or _tdp()
        return Machine(components, dataclasses.asdict(self._record), tdp_w)

    def _construct(self, settings: dict[str, Any]) -> Any:
        from codecarbon import OfflineEmissionsTracker  # type: ignore[import-untyped,unused-ignore]
        from codecarbon.output_methods.base_output import BaseOutput  # type: ignore[import-untyped,unused-ignore]

        logger, probe = logging.getLogger("codecarbon"), self
        logger.handlers.clear()
        logger.addHandler(self._log)

        class Handler(BaseOutput):  # type: ignore[misc,unused-ignore]
            def out(self, total: Any, delta: Any) -> None:
                probe._record = dataclasses.replace(total)

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        place = self._spec["place"]
        return OfflineEmissionsTracker(
            project_name=self._spec["project"],
            experiment_id=self._spec["run_id"],
            experiment_name="tfkit",
            country_iso_code=place["country_iso_code"],
            country_2letter_iso_code=None,
            region=None,
            cloud_provider=None,
            cloud_region=None,
            force_carbon_intensity_g_co2e_kwh=place["intensity_g_per_kwh"],
            pue=self._spec["pue"],
            wue=0.0,
            measure_power_secs=NEVER_SECONDS,
            api_call_interval=-1,
            tracking_mode="machine",
            force_cpu_power=_watts(settings, "force_cpu_power"),
            force_ram_power=_watts(settings, "force_ram_power"),
            force_mode_cpu_load=False,
            rapl_include_dram=False,
            rapl_prefer_psys=False,
            gpu_ids=[] if visible is not None and visible.strip() in ("", "-1") else visible,  # CodeCarbon reads "" as all GPUs
            output_methods=[],
            output_handlers=[Handler()],
            output_dir=os.sep,  # the folder must exist, but nothing is written there
            output_file="emissions.csv",
            on_csv_write="append",
            emissions_endpoint=False,
            api_endpoint=None,
            api_key=None,
            electricitymaps_api_token=None,
            logging_logger=None,
            logger_preamble="",
            log_level="warning",
            metadata=None,
            prometheus_url=None,
            allow_multiple_runs=True,
        )

    def read(self) -> Totals:
        """Return the sums until now. Raises RuntimeError if CodeCarbon gives no reading, with the error that CodeCarbon logged, if any."""
        self._record = None
        if self._tracker.flush() is None or self._record is None:
            raise RuntimeError("CodeCarbon gave no reading" + (f" ({self._log.last})" if self._log.last else ""))
        record = self._record
        return Totals(
            measured_seconds=float(record.duration),
            energy_wh=float(record.energy_consumed) * 1000,
            cpu_wh=float(record.cpu_energy) * 1000,
            gpu_wh=float(record.gpu_energy) * 1000,
            ram_wh=float(record.ram_energy) * 1000,
            emissions_g=float(record.emissions) * 1000,
            cpu_percent=float(record.cpu_utilization_percent),
            gpu_percent=float(record.gpu_utilization_percent),
            ram_percent=float(record.ram_utilization_percent),
            ram_used_gb=float(record.ram_used_gb),
        )

    def stop(self) -> None:
        """Stop CodeCarbon's threads."""
        self._tracker.stop()


class LastError(logging.Handler):
    """A log handler that stores the last exception that CodeCarbon logged."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Store the exception of a record. Other records are advice, which CodeCarbon logs at every start."""
        if record.exc_info and record.exc_info[1] is not None:
            self.last = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"


def _tdp() -> float | None:
    """Return the TDP of all processors, in watts, from CodeCarbon's table or its rule for unknown processors; None: not known."""
    try:
        from codecarbon.core import cpu, util  # type: ignore[import-untyped,unused-ignore]

        table, machine = cast(Any, cpu), cast(Any, util)
        tdp = float(table.TDP().tdp * machine.count_physical_cpus())
    except Exception:  # another version of CodeCarbon may lack these functions, and the TDP is optional
        return None
    return tdp if 0 < tdp < 1e6 else None


def _watts(settings: Mapping[str, Any], name: str) -> float | None:
    if (value := settings.get(name)) in (None, ""):
        return None
    with contextlib.suppress(ValueError):
        if 0 <= (watts := float(value)) < math.inf:
            return watts
    raise ValueError(f"its setting {name} is {value!r}, which is no number of watts such as 65.5")


def refuse_network() -> None:
    """Make every connection and name look-up of this process fail immediately. This cannot be undone."""
    forbidden = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in forbidden:
            raise PermissionError(f"the carbon meter does not use the network ({event})")

    sys.addaudithook(hook)


class Gauge:
    """Reads the probe in a thread. If the probe raises, hangs, exits or returns invalid values, `read` returns the last valid totals."""

    def __init__(self, make: Callable[[], CodeCarbonProbe]):
        self.status: Status = "starting"  # the status of the last reading
        self._totals = Totals()
        self._complaints: list[str] = []
        self._began = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "carbon-gauge")
        self._start = self._thread.submit(_start, make)
        self._reading: Future[Totals] | None = None  # the requested reading; None once `_take` has processed it

    @property
    def machine(self) -> Machine | None:
        """The measured machine; None until the probe has started."""
        return self._start.result()[1] if self._start.done() and self._start.exception() is None else None

    def complaints(self) -> list[str]:
        """Return the problems since the last call, and clear them."""
        complaints, self._complaints = self._complaints, []
        return complaints

    def read(self, patience: float = READ_PATIENCE_SECONDS, *, wait_for_start: bool = False) -> Totals:
        """Return the totals until now, or the last valid ones if the probe takes over `patience` seconds or still works on an earlier call.

        `wait_for_start`: if CodeCarbon has not started yet, wait up to `patience` seconds for its start.
        """
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
        """Stop the probe, and wait up to `patience` seconds until it has stopped."""
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
