"""The audit of a run's energy: recompute it from the ledgers (carbon/*.jsonl, the meter's readings), and compare the files made from them.

emissions.csv, the totals in run.json and the card of a finished run's last checkpoint must agree with the ledgers. The card of an earlier
checkpoint must not state more than the ledgers. If a run is in progress or was killed, each of these files may state less, but never more.
This module does not import torch.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tfkit.carbon import attempts_of, ledger_totals, missing_nodes, read_seconds, reading_of
from tfkit.carbon.emissions_file import NAME, emission_rows
from tfkit.carbon.footprint import MEASURED, REWORK, sum_totals
from tfkit.carbon.ledger import Attempt, line_hash
from tfkit.run.card_facts import BaseCard
from tfkit.run.checkpoints import step_folders
from tfkit.run.run_json import RunDocument, member_folders, read_run_json
from tfkit.run.strict_json import is_number

_SAME = 1e-9  # relative tolerance of comparisons, since sums may have been added up in different orders
_NOT_COMPARED = ("timestamp",)  # columns of emissions.csv: a timestamp is in the time zone of the machine that wrote the file
_SUMMED = ("seconds", "energy_kwh", "emissions_g")


@dataclass(frozen=True)
class Audit:
    """The result of the audit of one run."""

    run: str
    ledgers: dict[str, str] = field(default_factory=dict)  # the state of the hash chain of each ledger, by the ledger's name
    lines: int = 0  # number of lines in all ledgers together
    problems: list[str] = field(default_factory=list)  # differences from the ledgers or the sums over stages or trials, and damaged ledgers
    notes: list[str] = field(default_factory=list)  # notes on parts that were not compared, and on missing readings


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
