"""The session of a command that does not train, such as evaluate: energy meter, run folder, ranks and so on; and loading its model."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit.carbon import Meter, Reading, read_totals, resolve_place
from tfkit.carbon.footprint import SUMS, add_readings
from tfkit.engine.listener import Listener, ProgressBar, Silent, StopRequest
from tfkit.engine.request.rank_checks import rank_device, rank_threads
from tfkit.engine.request.run_totals import record_totals
from tfkit.errors import DataError
from tfkit.parallel.rank_map import BatchWork, PeerDoneError, RankMap, serial_map
from tfkit.parallel.ranks import ONE_PROCESS, Ranks
from tfkit.recipe.reading.overrides import Overrides
from tfkit.recipe.reading.tree import flatten
from tfkit.recipe.schema.carbon_section import CarbonSection
from tfkit.run.folder import RunFolder

if TYPE_CHECKING:
    from tfkit.engine.request.evaluation_settings import EvaluationSettings
    from tfkit.engine.request.inputs import Inputs
    from tfkit.generation.answer_precision import OpenedModel, Precision


WHOLE = "there is no result, since it needs all rows"  # the message of a stop during an evaluation


@dataclass(frozen=True)
class Session:
    """The state of a running command that does not train. With several ranks, each rank has a session."""

    stop: StopRequest
    listener: Listener
    meter: Meter
    folder: RunFolder | None
    before: Reading  # the energy and time of earlier commands in the same run folder
    metered: bool  # whether energy is measured
    device: str | None = None  # None: the best available device
    threads: int | None = None  # None: PyTorch's default
    ranks: Ranks = ONE_PROCESS
    deal: RankMap = serial_map  # computes the results of batches, together with the other ranks
    exchange: Callable[[Any], list[Any]] = lambda value: [value]  # sends a value to all ranks; returns the values of all ranks, by rank
    first_alone: Callable[[], AbstractContextManager[None]] = nullcontext  # context to fill a cache: other ranks enter it after rank 0 left
    # Waits until the meters of other machines have stopped, and returns their readings; with a run folder it returns none, since rank 0
    # reads the energy ledgers that these machines have written into the folder.
    end_of_other_meters: Callable[[], list[Reading]] = list

    def batches(self, bar: ProgressBar) -> BatchWork:
        """Return a BatchWork that spreads batches over the ranks and advances `bar`. A signal ends the work only within `stop.at_once`."""
        return BatchWork(bar.advance, deal=self.deal)

    def own(self, reading: Reading) -> Reading:
        """Return the part of a meter's reading that belongs to this command, not to earlier commands in the same run folder."""
        if not self.metered:
            return Reading()
        return replace(reading, **{name: max(0.0, getattr(reading, name) - getattr(self.before, name)) for name in SUMS})

    def reading(self, *, last: bool = False) -> Reading:
        """Return the energy and time of this command on all of its machines. Call it once, after the last batch. `last`: stop the meter."""
        others = self.end_of_other_meters()
        return add_readings(self.own(self.meter.stop() if last else self.meter.fresh_reading()), others)

    def finish(self, result: dict[str, Any], **facts: Any) -> None:
        """Record the result and further fields of run.json (`facts`, such as `data`) in the run folder, if there is one."""
        if self.folder is not None:
            self.folder.end_attempt("finished", result=result, **facts)


@contextmanager
def open_session(
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
    """Open the session of a command, and meter its energy under the command's name. `words`: the command-line arguments, for run.json.
    `ranks`: if there are several, this process must be rank 0, and the other processes must call `follow_command`.

    Raises UsageError for an unknown country, MachineError for a run folder that cannot be used. A series of carbon intensities that does
    not cover the present, such as that of an earlier run, is ignored with a warning.
    """
    carbon = _with_current_series(carbon, listener)
    with ExitStack() as stack:
        folder, before = None, Reading()
        if run is not None:
            folder = stack.enter_context(RunFolder.open(run, resume=None, command=[*words], warn=listener.warn))
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
        is_complete = False
        try:
            place = (device, threads) if ranks.is_alone else (rank_device(device, ranks), rank_threads(threads, ranks))
            alone = Session(stop, listener, meter, folder, before, carbon.enabled, *place)
            with nullcontext(alone) if ranks.is_alone else _joined(alone, ranks, others) as session:
                yield session
            is_complete = True
        finally:
            reading = meter.stop()
            if is_complete and (warning := meter.warning()):  # no warning after a failure, which may precede the first measurement
                listener.warn(warning)
            if folder is not None:
                record_totals(folder, reading, {})


def _with_current_series(carbon: CarbonSection, listener: Listener) -> CarbonSection:
    """Return the section, without its series of carbon intensities if that cannot be used now. Raises UsageError for an unknown country."""
    try:
        resolve_place(carbon)
    except DataError as error:
        listener.warn(f"{error}. The emissions of this command are computed without the series")
        carbon = carbon.model_copy(update={"intensity_file": None})
        resolve_place(carbon)
    return carbon


def follow_command(ranks: Ranks, stop: StopRequest, device: str | None, threads: int | None, follow: Callable[[Session], object]) -> None:
    """Compute a rank's part of the command that rank 0 leads. `follow`: passes the same batches as rank 0 to the session's `deal`.

    This rank has no run folder and reports nothing. On a machine other than that of rank 0, the first rank measures the machine's energy.
    """
    place = rank_device(device, ranks), rank_threads(threads, ranks)
    alone = Session(stop, Silent(), Meter(), None, Reading(), False, *place)
    with suppress(PeerDoneError), _joined(alone, ranks) as session, stop.at_once():
        follow(session)


@contextmanager
def _joined(alone: Session, ranks: Ranks, metered: dict[str, Any] | None = None) -> Iterator[Session]:
    """Join the other ranks, and yield the session that computes with them. `metered`: on rank 0, the arguments with which other machines
    start their meters (`Meter.on_node`); None on the other ranks.
    """
    from tfkit.parallel.collectives import ProcessGroup  # imported here, since it imports torch
    from tfkit.parallel.common_work import CommonWork

    with alone.stop.at_once():
        work = CommonWork(ProcessGroup.join(ranks, say=alone.listener.say))
    with work.to_the_end():
        joined = replace(alone, ranks=ranks, deal=work.deal, exchange=work.exchange, first_alone=work.first_alone)
        if ranks.nodes == 1:
            yield joined
            return
        facts = work.exchange(metered)[0]
        meter = Meter.on_node(facts) if ranks.meters_its_node else Meter()
        try:
            yield replace(joined, end_of_other_meters=lambda: [Reading(**one) for one in work.exchange(None) if one is not None])
            if not ranks.is_first:
                reading = meter.stop()  # with a run folder, the reading is in the folder's ledgers, which rank 0 reads
                work.exchange(asdict(reading) if ranks.meters_its_node and facts["folder"] is None else None)
        finally:
            meter.stop()


def open_model(folder: Path, session: "Session", inputs: "Inputs", precision: "Precision", *, packs: bool = True) -> "OpenedModel":
    """Load a model in the given precision, on the session's device, after checking that all ranks have the same input files. `packs`: lay
    out the weights of a large model for faster products on a CPU, which changes the order of sums and thus the last digits.

    Raises ModelError or DataError for an unusable folder, and MachineError for a precision that the device does not have.
    """
    import torch

    from tfkit.adapters import load
    from tfkit.generation.answer_precision import is_large, open_in_precision
    from tfkit.model.answering_linear import can_pack, pack
    from tfkit.training.device import has_bf16, pick_device

    if not session.ranks.is_alone:
        from tfkit.engine.assembly.rank_inputs import files_on_rank, require_same_inputs

        require_same_inputs([*files_on_rank(folder, inputs)], session.exchange)
    if session.threads is not None:
        torch.set_num_threads(session.threads)
    device = pick_device(session.device)
    opened = open_in_precision(
        lambda dtype: load(folder, device=device, dtype=dtype),
        precision,
        device,
        lambda allowed: all(session.exchange(allowed)),
        has_bf16=has_bf16(device),
    )
    for sentence in [*opened.loaded.notes(), *filter(None, [opened.described()])]:
        session.listener.say(sentence)
    model = opened.loaded.model
    if packs and opened.precision != "int8" and is_large(model) and can_pack(device, next(model.parameters()).dtype):
        pack(model)
    return opened


def own_precision(settings: "EvaluationSettings") -> "Precision":
    """Return evaluation.precision by its name in Precision: float32 or bf16."""
    return "float32" if settings.evaluation.precision == "float32" else "bf16"


def named_precision(settings: "EvaluationSettings", overrides: Overrides, precision: "Precision") -> "Precision":
    """Return the precision of a command: `precision` or, in place of auto, the overrides' evaluation.precision, if they have one."""
    return own_precision(settings) if precision == "auto" and "evaluation.precision" in flatten(dict(overrides)) else precision
