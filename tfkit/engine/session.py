"""A computation that is no training, as it runs: its meter, its listener, how it is stopped and, if it keeps one, its run folder."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tfkit.carbon import Meter, Reading, attempts_of, measuring_fields, read_rework, read_seconds, read_totals, reading_of, resolve_place
from tfkit.carbon.reading import SUMMED, with_others
from tfkit.engine.dealt_recipes import rank_device, rank_threads
from tfkit.engine.listener import Listener, Progress, Silent, StopRequest
from tfkit.errors import DataError
from tfkit.parallel.deal import BatchWork, Deal, in_turn
from tfkit.parallel.ranks import ONE_PROCESS, Ranks
from tfkit.recipe.schema.carbon_section import CarbonSection
from tfkit.run.folder import RunFolder

WHOLE = "there is no result, since it needs all rows"


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
    end_of_other_meters: Callable[[], list[Reading]] = list  # waits for those of other machines; what they read, without a run folder

    def should_stop(self) -> bool:
        """Whether the command should end."""
        return self.stop.should_stop()

    def batches(self, bar: Progress) -> BatchWork:
        """Return how the batches of this command are computed, whose progress a bar shows; what ends them is `stop.at_once`."""
        return BatchWork(bar.advance, deal=self.deal)

    def own(self, reading: Reading) -> Reading:
        """Of a reading of the meter what this command took."""
        if not self.metered:
            return Reading()
        return replace(reading, **{name: max(0.0, getattr(reading, name) - getattr(self.before, name)) for name in SUMMED})

    def reading(self, *, last: bool = False) -> Reading:
        """Return what this command took, on all of its machines; called once, when its work is done. `last`: the meter ends."""
        others = self.end_of_other_meters()
        return with_others(self.own(self.meter.stop() if last else self.meter.fresh_reading()), others)

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
    carbon = _with_current_series(carbon, listener)
    with ExitStack() as stack:
        folder, before = None, Reading()
        if run is not None:
            folder = stack.enter_context(RunFolder.open(run, resume=False, command=[*words], warn=listener.warn))
            folder.begin_attempt(threads, kind=command)
            before = read_totals(folder.path, folder.run_id)
        of_command: dict[str, Any] = {
            "run_id": folder.run_id if folder else str(uuid.uuid4()),
            "attempt": folder.attempt if folder else 1,
            "project": folder.path.name if folder else command,
            "phase": command,
            "nodes": ranks.nodes,
        }
        meter = Meter.start(carbon, folder=folder.path if folder else None, **of_command)
        others = of_command | {"folder": str(folder.path.resolve()) if folder else None, "carbon": carbon.model_dump(mode="json")}
        is_whole = False
        try:
            place = rank_device(device, ranks), rank_threads(threads, ranks)
            alone = Session(stop, listener, meter, folder, before, carbon.enabled, *place)
            with nullcontext(alone) if ranks.is_alone else _joined(alone, ranks, others) as work:
                yield work
            is_whole = True
        finally:
            reading = meter.stop()
            if is_whole and (warning := meter.warning()):  # what fails at once has nothing that would be measured
                listener.warn(warning)
            if folder is not None:
                record_totals(folder, reading, {})


def _with_current_series(carbon: CarbonSection, listener: Listener) -> CarbonSection:
    """Return the section, without a series of intensities that is not of now. Raises UsageError."""
    try:
        resolve_place(carbon)
    except DataError as error:
        listener.warn(f"{error}. This command is charged without the series")
        carbon = carbon.model_copy(update={"intensity_file": None})
        resolve_place(carbon)
    return carbon


@contextmanager
def following_session(ranks: Ranks, stop: StopRequest, device: str | None, threads: int | None) -> Iterator[Session]:
    """Follow rank 0 through a command, without a folder or a word; what the other ranks compute comes by `deal`. The first rank of another
    machine measures its energy.
    """
    place = rank_device(device, ranks), rank_threads(threads, ranks)
    with _joined(Session(stop, Silent(), Meter(), None, Reading(), False, *place), ranks) as work:
        yield work


@contextmanager
def _joined(alone: Session, ranks: Ranks, metered: dict[str, Any] | None = None) -> Iterator[Session]:
    """Join the other ranks. `metered`: of rank 0, what the meters of other machines are started with."""
    from tfkit.parallel.collectives import ProcessGroup  # which imports torch
    from tfkit.parallel.common_work import CommonWork

    with alone.stop.at_once():
        work = CommonWork(ProcessGroup.join(ranks, say=alone.listener.say))
    with work.to_the_end():
        joined = replace(alone, ranks=ranks, deal=work.deal, first_alone=work.first_alone)
        if ranks.nodes == 1:
            yield joined
            return
        facts = work.exchange(metered)[0]
        meter = start_node_meter(facts) if ranks.meters_its_node else Meter()
        try:
            yield replace(joined, end_of_other_meters=lambda: [Reading(**one) for one in work.exchange(None) if one is not None])
            if not ranks.is_first:
                reading = meter.stop()  # with a run folder rank 0 reads the ledger
                work.exchange(asdict(reading) if ranks.meters_its_node and facts["folder"] is None else None)
        finally:
            meter.stop()


def start_node_meter(facts: dict[str, Any]) -> Meter:
    """Start the meter of a machine beside that of rank 0, which has sent the facts; its ledger, if any, is beside that of rank 0."""
    folder = None if facts["folder"] is None else Path(facts["folder"])
    given = {name: value for name, value in facts.items() if name not in ("carbon", "folder")}
    return Meter.start(CarbonSection.model_validate(facts["carbon"]), folder=folder, **given)


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
