"""All ancestors of a model that is about to be trained, read from the folders of its parents: each has its own lineage, or a card.

A folder that was copied or renamed is the same ancestor, by the id of its run or the content of its weights. What cannot be read, or was
edited since its manifest was written, is unknown and reported: then the sum over the ancestors is a lower bound.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfkit.errors import ModelError
from tfkit.run.card_facts import BaseCard, last_name
from tfkit.run.lineage import Ancestor, Lineage, merge_ancestors, parse_lineage, position, shifted
from tfkit.run.manifest import NAME, read_manifest, sha256_of
from tfkit.run.model_files import MIB, find_file, read_object

FACTS = "tfkit.json"
_LIMIT = 4 * MIB  # of a tfkit.json, as tfkit.hub has it
_AVERAGED = "averaged"  # the role of the checkpoints of a mean, which are of the run of the mean itself


@dataclass(frozen=True)
class Parent:
    """A model that a run begins with, and the folder that it was read from."""

    role: str
    path: str  # as the recipe has it
    folder: Path | None  # None: it was made in memory
    run_id: str | None
    sha256: str | None
    base: "Parent | None" = None  # of an adapter: the model that it updates

    def document(self) -> dict[str, Any]:
        """Return its entry among the parents in tfkit.json."""
        return {"role": self.role, "path": self.path, "run_id": self.run_id, "sha256": self.sha256}


@dataclass(frozen=True)
class Ancestry:
    """The distinct ancestors of a run, its parents first, and what was wrong with their folders."""

    ancestors: tuple[Ancestor, ...] = ()
    problems: tuple[str, ...] = ()


def find_ancestors(parents: Sequence[Parent], run_id: str) -> Ancestry:
    """Read the lineages of the parents of the run `run_id`, and merge them: each ancestor is counted once."""
    found: list[Ancestor] = []
    problems: list[str] = []
    direct = [_add(parent, found, problems) for parent in parents]
    order = [*direct, *(place for place in range(len(found)) if place not in direct)]
    new = {old: place for place, old in enumerate(order)}
    problems += [problem for parent in parents for problem in _changes(parent, parents)]
    ordered = [replace(found[old], parents=tuple(new[parent] for parent in found[old].parents)) for old in order]
    return Ancestry(merge_ancestors(ordered, [run_id]), tuple(dict.fromkeys(problems)))


def _changes(child: Parent, parents: Sequence[Parent]) -> Iterator[str]:
    """Report the parents that a child was made from as they were then, and that are other models under the same path now.

    Of the path of a run, which continues, or of a repository, another model is no change.
    """
    try:
        lineage = read_lineage(child.folder) if child.folder is not None else None
    except (ModelError, OSError):  # which is reported already
        return
    recorded = {one["path"]: one for one in lineage.parents} if lineage is not None else {}
    for parent in parents:
        then = recorded.get(parent.path)
        if then is None or parent.folder != Path(parent.path) or then["sha256"] in (None, parent.sha256):
            continue
        yield (
            f"{parent.path}: has changed since {child.path} was made from it: the SHA-256 of its weights was {then['sha256']} and is now "
            f"{parent.sha256}. Restore it, or give the model of now a folder of its own"
        )


def read_lineage(folder: Path) -> Lineage | None:
    """Return the lineage in the tfkit.json of a checkpoint; None if it has none. Raises ModelError if it is damaged or was edited."""
    facts = _facts(folder)
    if "lineage" not in facts:
        return None
    try:
        return parse_lineage(facts["lineage"])
    except ValueError as error:
        raise ModelError(f"{folder / FACTS}: {error}; copy the file again") from None


def _facts(folder: Path) -> dict[str, Any]:
    """Return the content of tfkit.json. Raises ModelError if it is damaged, or is not the file of the manifest."""
    path = find_file(folder, FACTS)
    if path is None:
        return {}
    if find_file(folder, NAME) is not None:
        entry = read_manifest(folder).get(FACTS)
        if entry is None or sha256_of(path)[0] != entry["sha256"]:
            raise ModelError(f"{path}: was edited: its SHA-256 is not that of {NAME}; restore the file")
    return read_object(path, _LIMIT)


def _add(parent: Parent, found: list[Ancestor], problems: list[str]) -> int:
    """Append a parent and its ancestors, not merged yet, and return its place."""
    lineage, card = None, BaseCard()
    try:
        if parent.folder is not None:
            lineage, card = read_lineage(parent.folder), BaseCard.read(parent.folder)
    except (ModelError, OSError) as error:  # then the card may be another model's, too
        problems.append(f"what this model has cost is not known: {error}")
    place = len(found)
    found.append(_with_totals(Ancestor(last_name(parent.path), (parent.role,), parent.run_id, parent.sha256), lineage, card))
    above = _recorded(parent, lineage, found)
    if parent.base is not None:
        above.append(_add(parent.base, found, problems))
    if not above and card.base and (lineage is None or lineage.ancestors is None):
        above.append(len(found))
        found.append(Ancestor(f"the base of {found[place].name}" if card.base == "?" else card.base, ("start",)))
    found[place] = replace(found[place], parents=tuple(above))
    return place


def _with_totals(ancestor: Ancestor, lineage: Lineage | None, card: BaseCard) -> Ancestor:
    """Return it with the totals of its checkpoint, or else with the grams that its card states."""
    own = lineage.own if lineage else None
    if own is not None and own.emissions_g is not None:
        return replace(ancestor, energy_kwh=own.energy_kwh, emissions_g=own.emissions_g, source="ledger", status=own.status)
    if card.emissions_g is not None:
        return replace(ancestor, emissions_g=card.emissions_g, source="card", status="ok")
    return replace(ancestor, status=own.status if own is not None else "unknown")


def _recorded(parent: Parent, lineage: Lineage | None, found: list[Ancestor]) -> list[int]:
    """Append the ancestors that a parent records, and return the places of those that are its own parents."""
    if lineage is None:
        return []
    direct = [one for one in lineage.parents if one["role"] != _AVERAGED or one["run_id"] != parent.run_id]
    first = len(found)
    if lineage.ancestors is None:  # a version that recorded the parents alone
        names = [(last_name(one["path"] or "?"), (one["role"] or "?",)) for one in direct]
        found += [Ancestor(*name, one["run_id"], one["sha256"]) for name, one in zip(names, direct, strict=True)]
        return list(range(first, len(found)))
    found += shifted(lineage.ancestors, first)
    places = (position(lineage.ancestors, one["run_id"], one["sha256"]) for one in direct)
    return [place + first for place in dict.fromkeys(places) if place is not None]
