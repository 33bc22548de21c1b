"""A computation that is no training, as it runs: its meter, its listener, how it is stopped and, if it keeps one, its run folder."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfkit.carbon import Meter, Reading, attempts_of, measuring_fields, read_rework, read_seconds, read_totals, reading_of, resolve_place
from tfkit.carbon.reading import SUMMED
from tfkit.engine.dealt_recipes import rank_device, rank_threads
from tfkit.engine.listener import Listener, Silent, StopRequest
from tfkit.errors import DataError
from tfkit.parallel.deal import Deal, in_turn
from tfkit.parallel.ranks import ONE_PROCESS, Ranks
from tfkit.recipe.schema.carbon_section import CarbonSection
from tfkit.run.folder import RunFolder

WHOLE = "there is no result, since only all rows together give one"


@dataclass(frozen=True)
class Session:
    """A command at work."""

    stop: StopRequest
    listener: Listener
    meter: Meter
    folder: RunFolder | None
    before: Reading  # what earlier commands in the same run folder took
    metered: bool
    device: str | None = None  # of this rank, and its threads; None: the best device, PyTorch's own number
    threads: int | None = None
    ranks: Ranks = ONE_PROCESS
    deal: Deal = in_turn  # computes a list of batches, with the other ranks where there are some
    first_alone: Callable[[], AbstractContextManager[None]] = nullcontext  # encloses what fills a cache: rank 0 enters first

    def should_stop(self) -> bool:
        """Whether the command should end."""
        return self.stop.should_stop()

    def own(self, reading: Reading) -> Reading:
        """Of a reading of the meter what this command took."""
        if not self.metered:
            return Reading()
        return replace(reading, **{name: max(0.0, getattr(reading, name) - getattr(self.before, name)) for name in SUMMED})

    def finish(self, result: dict[str, Any], **facts: Any) -> None:
        """Keep the result, and facts about what it is of, in the run folder, if there is one."""
        if self.folder is not None:
            self.folder.end_attempt("finished", result=result, **facts)


@contextmanager
def session(
    command: str,
    carbon: CarbonSection,
    run: Path | None,
    listener: Listener,
    stop: StopRequest,
    *,
    device: str | None = None,
    threads: int | None = None,
    words: Sequence[str] = (),
    ranks: Ranks = ONE_PROCESS,
) -> Iterator[Session]:
    """Meter the block, under the name of the command; `words`, the command line, are for the receipt; with `ranks` it is rank 0 of a
    command that the others follow.

    Raises UsageError for a country that is none, MachineError for a bad run folder. A series of intensities that is not of now, as
    that of the run whose checkpoint is used may be, is left out with a warning.
    """
    try:
        resolve_place(carbon)
    except DataError as error:
        listener.warn(f"{error}. This command is charged without the series")
        carbon = carbon.model_copy(update={"intensity_file": None})
        resolve_place(carbon)
    with ExitStack() as stack:
        folder, before = None, Reading()
        if run is not None:
            folder = stack.enter_context(RunFolder.open(run, resume=False, command=[*words], warn=listener.warn))
            folder.begin_attempt(threads, kind=command)
            before = read_totals(folder.path, folder.run_id)
        meter = Meter.start(
            carbon,
            folder=folder.path if folder else None,
            run_id=folder.run_id if folder else str(uuid.uuid4()),
            attempt=folder.attempt if folder else 1,
            project=folder.path.name if folder else command,
            phase=command,
        )
        is_whole = False
        try:
            place = rank_device(device, ranks), rank_threads(threads, ranks)
            alone = Session(stop, listener, meter, folder, before, carbon.enabled, *place)
            with nullcontext(alone) if ranks.is_alone else _joined(alone, ranks) as work:
                yield work
            is_whole = True
        finally:
            reading = meter.stop()
            if is_whole and (warning := meter.warning()):  # what fails at once has nothing that would be measured
                listener.warn(warning)
            if folder is not None:
                record_totals(folder, reading, {})


@contextmanager
def following_session(ranks: Ranks, stop: StopRequest, device: str | None, threads: int | None) -> Iterator[Session]:
    """Follow rank 0 through a command, without a meter, a folder or a word; what the other ranks compute comes by `deal`."""
    place = rank_device(device, ranks), rank_threads(threads, ranks)
    with _joined(Session(stop, Silent(), Meter(), None, Reading(), False, *place), ranks) as work:
        yield work


@contextmanager
def _joined(alone: Session, ranks: Ranks) -> Iterator[Session]:
    from tfkit.parallel.collectives import ProcessGroup  # which imports torch
    from tfkit.parallel.common_work import CommonWork

    with alone.stop.at_once():
        work = CommonWork(ProcessGroup.join(ranks))
    with work.to_the_end():
        yield replace(alone, ranks=ranks, deal=work.deal, first_alone=work.first_alone)


def energy_fields(reading: Reading) -> dict[str, Any]:
    """Energy and emissions, None where nothing was measured, which is not 0; and `carbon_status`: ok, degraded, failed, off."""
    measured = reading.outcome in ("ok", "degraded")
    parts = {"cpu": reading.cpu_wh / 1000, "gpu": reading.gpu_wh / 1000, "ram": reading.ram_wh / 1000}
    return {
        "energy_kwh": reading.energy_wh / 1000 if measured else None,
        "energy_kwh_parts": parts if measured else None,
        "emissions_g": reading.emissions_g if measured else None,
        "carbon_status": reading.outcome,
    }


def place_fields(reading: Reading) -> dict[str, Any]:
    """`place`: where the energy was used, as far as that is known, and the grams a kWh; None where nothing was metered."""
    return {"place": reading.place or None}


def record_totals(folder: RunFolder, reading: Reading, totals: dict[str, Any]) -> None:
    """Record the totals of all attempts of a run, however the last one ended: time, energy, rework, and the caller's counts.

    Time and energy are those of the ledgers. `reading` is the meter's last one: it takes their place where a disk has not taken them all.
    """
    seconds = round(folder.seconds(read_seconds(folder.path, folder.run_id)), 3)
    measured = ledger_fields(folder.path, folder.run_id, seconds)
    if measured is None or (reading.outcome == "ok" and reading.energy_wh > 1000 * (measured["energy_kwh"] or 0.0) * (1 + 1e-6)):
        measured = energy_fields(reading) | place_fields(reading) | measuring_fields([], seconds)
    elif reading.outcome == "degraded" and measured["carbon_status"] == "ok":
        measured["carbon_status"] = "degraded"
    folder.record(totals=folder.totals | {"seconds": seconds} | totals | measured | rework_fields(folder.path, folder.run_id))


def ledger_fields(run_folder: Path, run_id: str, seconds: float) -> dict[str, Any] | None:
    """Return what the ledgers of a run give of its totals; `seconds`: of all attempts. None without a ledger that can be read."""
    try:
        attempts = attempts_of(run_folder, run_id)
    except OSError:
        return None
    reading = reading_of(attempts)
    return energy_fields(reading) | place_fields(reading) | measuring_fields(attempts, seconds) if attempts else None


def rework_fields(run_folder: Path, run_id: str) -> dict[str, float | None]:
    """Return the part of the totals that went into steps that were lost and done again; None without a ledger."""
    lost = read_rework(run_folder, run_id)
    return {
        "rework_kwh": lost["energy_wh"] / 1000 if lost else None,
        "rework_g": lost["emissions_g"] if lost else None,
        "rework_seconds": round(lost["seconds"], 3) if lost else None,
    }
