"""Compare the files of checkpoints with their checksums, and audit the energy of runs: recompute it from the ledgers (carbon/*.jsonl, the
meter's readings), and check the files that state it. No file is changed, and torch is not imported.

emissions.csv, the totals in run.json and the model card of a finished run's last checkpoint must agree with the ledgers. The card of an
earlier checkpoint must not state more than the ledgers. If a run is in progress or was killed, each of these files may state less, but
never more.
"""

import csv
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tfkit.carbon import attempts_of, ledger_totals, missing_nodes, read_seconds, reading_of
from tfkit.carbon.emissions_file import NAME, emission_rows
from tfkit.carbon.footprint import MEASURED, REWORK, sum_totals
from tfkit.carbon.ledger import Attempt, line_hash
from tfkit.engine.listener import Listener
from tfkit.errors import ModelError
from tfkit.run.best_json import best_checkpoint, read_best
from tfkit.run.card_facts import BaseCard
from tfkit.run.checkpoints import leftovers, set_aside, step_folders
from tfkit.run.listing import list_runs
from tfkit.run.manifest import extra_files, read_manifest, recorded_bytes, verify
from tfkit.run.model_files import MIB, read_object
from tfkit.run.run_json import RunDocument, member_folders, read_run_json, runs_within
from tfkit.run.safetensors_header import read_header
from tfkit.run.strict_json import is_number

_SAME = 1e-9  # relative tolerance of comparisons, since sums may have been added up in different orders
_NOT_COMPARED = ("timestamp",)  # columns of emissions.csv: a timestamp is in the time zone of the machine that wrote the file
_SUMMED = ("seconds", "energy_kwh", "emissions_g")


@dataclass(frozen=True)
class Verdict:
    """The finding on a checkpoint, whose manifest lists the size and the hash of each file."""

    path: str
    verdict: str  # "good", "damaged" (a file differs from the manifest) or "incomplete" (there is no valid manifest)
    files: int = 0  # number of files in the manifest
    bytes: int = 0  # total size of the files in the manifest
    problems: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)  # names of files that are not in the manifest, and that tfkit ignores


@dataclass(frozen=True)
class Audit:
    """The result of the audit of one run."""

    run: str
    ledgers: dict[str, str] = field(default_factory=dict)  # the state of the hash chain of each ledger, by the ledger's name
    lines: int = 0  # number of lines in all ledgers together
    problems: list[str] = field(default_factory=list)  # differences from the ledgers or the sums over stages or trials, and damaged ledgers
    notes: list[str] = field(default_factory=list)  # notes on parts that were not compared, and on missing readings


@dataclass(frozen=True)
class Verification:
    """The findings at a path: a verdict on each checkpoint, notes on other files, and an audit of the energy of each run."""

    path: Path
    verdicts: list[Verdict]
    notes: list[str]
    audits: list[Audit]

    @property
    def error(self) -> ModelError | None:
        """The error for the first problem; None if there is no problem."""
        bad = [verdict.problems for verdict in self.verdicts if verdict.problems]
        problems = [problem for one in bad or [audit.problems for audit in self.audits] for problem in one]
        if not problems:
            return None
        first = problems[0] + (" (and more)" if len(problems) > 1 else "")
        if bad:
            count = f"{len(bad)} of {len(self.verdicts)} checkpoints did not pass"
            return ModelError(f"{count}: {first}. Restore the files, or use another checkpoint")
        return ModelError(f"{first}. Restore the file; ledgers whose hash chain is intact have the right numbers")

    def to_dict(self) -> dict[str, Any]:
        """Return the document of --json."""
        return {
            "schema_version": 1,
            "path": str(self.path),
            "good": self.error is None,
            "checkpoints": [asdict(verdict) for verdict in self.verdicts],
            "notes": self.notes,
            "carbon": [{**asdict(audit), "good": not audit.problems} for audit in self.audits],
        }


def verify_path(path: Path, listener: Listener) -> Verification:
    """Verify the checkpoint, run or runs at a path, and audit the energy of each run. Raises ModelError if there is nothing to verify."""
    folders, notes = _find(path)
    with listener.progress("verifying", sum(map(recorded_bytes, folders)), "bytes") as bar:
        verdicts = [_judge(folder, bar.advance) for folder in folders]
    place = path.resolve()
    runs = [place.parent.parent] if place.parent.name == "checkpoints" else _runs(place) or [place]
    return Verification(path, verdicts, notes, [audit for run in runs for audit in audit_runs(run)])


def _runs(path: Path) -> list[Path]:
    """Return the runs in a folder of runs, without stages and trials of other runs; [] if the folder itself is a run or a model."""
    if any((path / name).exists() for name in ("run.json", "manifest.json", "config.json", "checkpoints")):
        return []
    runs = [Path(entry.run) for entry in list_runs(path) if entry.status != "foreign"]
    members = {member for run in runs for member in member_folders(run).values()}
    return [run for run in runs if run not in members]


def _find(path: Path) -> tuple[list[Path], list[str]]:
    """Return the checkpoint folders of all runs at a path, or the path itself if it is a model folder; and notes on other files there.

    Raises ModelError if the path is no folder, or its runs have no checkpoint. For the run folder of an evaluation, both lists are empty.
    """
    if str(path).startswith("hub:"):
        raise ModelError(f"{path}: not on this machine; verify takes a checkpoint or a run folder")
    if not path.is_dir():
        raise ModelError(f"{path}: there is no such folder; verify takes a checkpoint or a run folder")
    runs = [run for one in _runs(path) or [path] for run in runs_within(one)]
    roots = [run / "checkpoints" for run in runs if (run / "checkpoints").is_dir()]
    if runs == [path] and not roots:  # `path` is a model folder, or the run folder of an evaluation, which has no checkpoints
        return ([], []) if (path / "carbon").is_dir() and (path / "run.json").is_file() else ([path], [])
    folders = [folder for root in roots for folder in step_folders(root)]
    notes = [note for root in roots for note in _notes(root)]
    if not folders:
        raise ModelError("\n".join([f"{path}: this run has no checkpoint", *notes]))
    return folders, notes


def _notes(root: Path) -> list[str]:
    notes = [f"{folder}: was damaged, and was set aside; it is removed when the run has passed its step" for folder in set_aside(root)]
    notes += [f"{left}: left by a save that was killed or is in progress; the next start removes it" for left in leftovers(root)]
    if (root / "best.json").exists() and not best_checkpoint(root):
        best = read_best(root)
        what = f"names step {best.step}, which is not complete here" if best else "unreadable"
        notes.append(f"{root / 'best.json'}: {what}; the newest checkpoint is used instead")
    return notes


def _judge(folder: Path, advance: Callable[[int], object]) -> Verdict:
    try:
        files = len(read_manifest(folder))
    except ModelError as error:
        unsure = "" if (folder / "manifest.json").exists() else ": there is nothing to check its files against"
        return Verdict(str(folder), "incomplete", problems=[f"{error}{unsure}", *_unreadable(folder)])
    problems = verify(folder, advance=advance)
    return Verdict(str(folder), "damaged" if problems else "good", files, recorded_bytes(folder), problems, extra_files(folder))


def _unreadable(folder: Path) -> list[str]:
    """Return the problems that can be found without checksums: invalid JSON, and safetensors files whose header is wrong."""
    problems = []
    for path in sorted({*folder.glob("*.json"), *folder.glob("*.safetensors")} - {folder / "manifest.json"}):
        try:
            read_object(path, 512 * MIB) if path.suffix == ".json" else read_header(path)
        except ModelError as error:
            problems.append(str(error))
    return problems


def audit_runs(folder: Path) -> list[Audit]:
    """Audit a run; if it has stages or trials (of a sweep), audit each, and the sums of their totals. Return [] if there is no run."""
    members = {name: member for name, member in member_folders(folder).items() if member.exists()}
    if not members:
        return [_audit(folder)] if (folder / "run.json").is_file() else []
    audits = [audit for member in members.values() for audit in audit_runs(member)]
    problems: list[str] = []
    notes: list[str] = []
    document = _document(folder, notes)
    parts = [part.totals for member in members.values() if (part := _document(member, notes)) is not None]
    if document is not None and document.status not in ("running", "killed"):
        for name, value in sum_totals(parts).document(_SUMMED).items():
            problems += _differences(folder / "run.json", f"totals.{name}", value, _recorded(document, name))
    return [*audits, Audit(str(folder), problems=problems, notes=notes)]


def _audit(folder: Path) -> Audit:
    notes: list[str] = []
    document = _document(folder, notes)
    try:
        attempts = attempts_of(folder)
    except OSError as error:
        return Audit(str(folder), problems=[f"{folder / 'carbon'}: cannot be read ({error.strerror})"], notes=notes)
    states = {attempt.name: attempt.chain.state for attempt in attempts}
    unchained = [folder / "carbon" / f"{name}.jsonl" for name, state in states.items() if state == "unchained"]
    notes += [f"{path}: has no hashes, since an older version wrote it: changes to it cannot be detected" for path in unchained]
    behind = document is not None and document.status in ("running", "killed")
    if behind:
        notes.append(f"{folder}: is in progress or was killed; its totals may lack the latest readings of the ledgers")
    notes += [f"{folder / 'carbon'}: {silent}, so the energy is a lower bound" for silent in missing_nodes(attempts)]
    problems = [*_chains(folder, attempts), *_rows(folder, attempts, behind)]
    if document is not None:
        problems += [*_totals(folder, document, attempts, behind), *_cards(folder, document, attempts, behind)]
    return Audit(str(folder), states, sum(attempt.chain.lines for attempt in attempts), problems, notes)


def _document(folder: Path, notes: list[str]) -> RunDocument | None:
    try:
        return read_run_json(folder)
    except (OSError, ValueError) as error:
        notes.append(f"{folder / 'run.json'}: not compared ({error})")
        return None


def _chains(folder: Path, attempts: list[Attempt]) -> Iterator[str]:
    """Yield a problem for each ledger without a header, with a broken hash chain, or whose first line has a hash of no other ledger."""
    texts = {attempt.name: (folder / "carbon" / f"{attempt.name}.jsonl").read_bytes().split(b"\n") for attempt in attempts}
    hashes = {name: {line_hash(text) for text in lines} for name, lines in texts.items()}
    for attempt in attempts:
        path, chain = folder / "carbon" / f"{attempt.name}.jsonl", attempt.chain
        if chain.broken_at is not None:
            yield f"{path}:{chain.broken_at}: does not have the hash of the line before: one of them was changed, removed or inserted"
        if chain.first is not None and not any(chain.first in known for name, known in hashes.items() if name != attempt.name):
            yield f"{path}:1: refers to a line that no other ledger has: an earlier ledger was changed or removed"
    for path in sorted((folder / "carbon").glob("*.jsonl")):
        if path.stem not in texts and path.stat().st_size:
            yield f"{path}:1: has no header, so its energy is not counted"


def _rows(folder: Path, attempts: list[Attempt], behind: bool) -> Iterator[str]:
    """Yield the differences of emissions.csv from the ledgers; if `behind` (the file may be older), only rows that no ledger has."""
    path, ours = folder / NAME, {attempt.header["run_id"] for attempt in attempts}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = {row.get("run_id"): row for row in csv.DictReader(file) if attempts}
    except (OSError, ValueError, csv.Error) as error:
        if attempts and not behind:
            yield f"{path}: cannot be read ({error}); the next start of the run derives it from the ledgers"
        return
    for expected in emission_rows(attempts):
        row = rows.pop(expected["run_id"], None)
        if behind:
            continue
        if row is None:
            yield f"{path}: lacks the row {expected['run_id']} of the ledgers, of {expected['energy_consumed']} kWh"
            continue
        for name, value in expected.items():
            text = "" if value is None else str(value)
            if name in row and name not in _NOT_COMPARED and row[name] != text:
                yield f"{path}: {name} of the row {expected['run_id']} is {row[name]}, but {text} according to the ledgers"
    for run_id, row in rows.items():
        if row.get("experiment_id") in ours:
            yield f"{path}: has a row {run_id} that is in no ledger"


def _totals(folder: Path, document: RunDocument, attempts: list[Attempt], behind: bool) -> Iterator[str]:
    """Yield the differences of the totals in run.json from the ledgers. Fields that an older version did not write are not compared."""
    run_id, recorded, totals = document.run_id, document.totals, document.fields.get("totals") or {}
    path, metered = folder / "run.json", read_seconds(folder, run_id)
    known = len(metered) == len(document.attempts)
    if known and not behind:
        yield from _differences(path, "totals.seconds", round(sum(metered.values()), 3), _recorded(document, "seconds"))
    expected = ledger_totals(folder, run_id, recorded.seconds or 0.0)
    if expected is None and recorded.energy_kwh:
        yield f"{folder / 'carbon'}: has no ledger of this run, and {path} has totals.energy_kwh {recorded.energy_kwh}"
    if expected is None or not totals:
        return
    if recorded.carbon_status == "degraded" and expected.carbon_status == "ok":
        expected = replace(expected, carbon_status="degraded")  # the meter ended early, which a ledger does not record
    if behind:
        for name, value in expected.document(_SUMMED[1:]).items():
            if (getattr(recorded, name) or 0.0) > (value or 0.0) * (1 + _SAME):
                yield f"{path}: totals.{name} is {getattr(recorded, name)}, but at most {value} according to the ledgers"
        return
    for name, value in expected.document((*MEASURED, *REWORK)).items():
        if name in totals:
            yield from _differences(path, f"totals.{name}", value, _recorded(document, name))


def _recorded(document: RunDocument, name: str) -> Any:
    """Return a field of the totals in run.json, as text if its value is not of the field's type."""
    value, written = document.totals.document([name])[name], (document.fields.get("totals") or {}).get(name)
    return str(written) if value is None and written is not None else value


def _cards(folder: Path, document: RunDocument, attempts: list[Attempt], behind: bool) -> Iterator[str]:
    """Yield a problem for each model card with more emissions than the whole run or, for a finished run's last checkpoint, with fewer."""
    of_run = [attempt for attempt in attempts if attempt.header["run_id"] == document.run_id]
    grams, result = reading_of(of_run).emissions_g, document.result or {}
    last = Path(str(result.get("checkpoint", ""))).name if document.status == "finished" else ""
    rounding = 5.1e-5 if grams >= 1 else grams * 5.1e-4  # a card has 4 decimals or, below 1 g, 4 significant digits (card_impact.py)
    exact = not behind and document.totals.carbon_status == "ok"
    for checkpoint in step_folders(folder / "checkpoints") if of_run else []:
        stated = BaseCard.read(checkpoint).emissions_g
        if stated is None:
            continue
        what = f"{checkpoint / 'README.md'}: co2_eq_emissions.emissions is {stated} g"
        if checkpoint.name == last and exact and abs(stated - grams) > rounding:
            yield f"{what}, but {grams} g according to the ledgers"
        elif stated > grams + rounding and (exact or behind):
            yield f"{what}, but {grams} g for the whole run according to the ledgers"


def _differences(path: Path, name: str, expected: Any, recorded: Any) -> Iterator[str]:
    """Yield a problem if a field differs from its expected value; if both are JSON objects, for each of their fields that differs."""
    if isinstance(expected, dict) and isinstance(recorded, dict):
        for key in {**expected, **recorded}:
            yield from _differences(path, f"{name}.{key}", expected.get(key), recorded.get(key))
        return
    if is_number(expected) and is_number(recorded) and None not in (expected, recorded):
        if abs(expected - recorded) <= _SAME * max(abs(expected), abs(recorded)):
            return
    elif expected == recorded:
        return
    yield f"{path}: {name} is {recorded}, but {expected} according to the ledgers"
