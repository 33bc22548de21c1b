"""The ancestors of a model that is about to be trained: its parents (from which it starts, learns or takes its tokenizer), their parents,
and so on. They are read from the tfkit.json (its field `lineage`, see lineage.py) and the model card in the folder of each parent.

Copies of a folder count as one ancestor, whatever their names: they have the same run id, or the same weights and configuration. If an
ancestor's tfkit.json cannot be read, or was edited after its manifest.json was written, this is reported, and the emissions of the ancestor
count as unknown, so the sum over all ancestors is a lower bound.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfkit.errors import ModelError
from tfkit.run.card_facts import BaseCard, last_name
from tfkit.run.lineage import Ancestor, Lineage, merge_ancestors, parse_lineage, position, shifted
from tfkit.run.manifest import NAME, read_manifest, sha256_of
from tfkit.run.model_files import find_file
from tfkit.run.tfkit_json import NAME as FACTS
from tfkit.run.tfkit_json import read_tfkit_json

_AVERAGED = "averaged"  # the role of a checkpoint in a mean of several; it is no ancestor of that mean if both are of the same run


@dataclass(frozen=True)
class Parent:
    """A model from which a run starts, learns (such as a teacher) or takes its tokenizer, and the folder from which it was read."""

    role: str
    path: str  # as in the recipe: a path, which may be relative, or hub:org/name
    folder: Path | None  # None: the model was created in memory
    run_id: str | None
    sha256: str | None
    base: "Parent | None" = None  # if this model is an adapter: the model that it adapts

    def document(self) -> dict[str, Any]:
        """Return the entry of this parent in tfkit.json."""
        return {"role": self.role, "path": self.path, "run_id": self.run_id, "sha256": self.sha256}


@dataclass(frozen=True)
class FoundAncestors:
    """The distinct ancestors of a run, its parents first, and the problems found in their folders."""

    ancestors: tuple[Ancestor, ...] = ()
    problems: tuple[str, ...] = ()


def find_ancestors(parents: Sequence[Parent], run_id: str) -> FoundAncestors:
    """Return the ancestors of the run `run_id`, each once, as the folders of its `parents` record them."""
    ancestors: list[Ancestor] = []
    problems: list[str] = []
    direct = [_add(parent, ancestors, problems) for parent in parents]
    order = [*direct, *(index for index in range(len(ancestors)) if index not in direct)]
    new_index = {old: new for new, old in enumerate(order)}
    problems += [problem for parent in parents for problem in _changes(parent, parents)]
    ordered = [replace(ancestors[old], parents=tuple(new_index[parent] for parent in ancestors[old].parents)) for old in order]
    return FoundAncestors(merge_ancestors(ordered, [run_id]), tuple(dict.fromkeys(problems)))


def _changes(child: Parent, parents: Sequence[Parent]) -> Iterator[str]:
    """Yield a sentence for each of `parents` whose weights or configuration changed since the model `child` was trained from it.

    A parent is compared only if its path names a model's own folder: the path of a run or of a Hub repository may lead to a newer model.
    """
    try:
        lineage = read_lineage(child.folder) if child.folder is not None else None
    except (ModelError, OSError):  # `_add` reads the same lineage and reports the error
        return
    recorded = {entry.path: entry for entry in lineage.parents} if lineage is not None else {}
    for parent in parents:
        then = recorded.get(parent.path)
        if then is None or parent.folder != Path(parent.path) or then.sha256 in (None, parent.sha256):
            continue
        yield (
            f"{parent.path}: has changed since {child.path} was made from it: the SHA-256 of its weights was {then.sha256} and is now "
            f"{parent.sha256}. Restore it, or move the present model to a folder of its own"
        )


def read_lineage(folder: Path) -> Lineage | None:
    """Return the lineage in a checkpoint's tfkit.json; None if that has none. Raises ModelError if the file is damaged or was edited."""
    _require_unedited(folder)
    fields = read_tfkit_json(folder).fields
    if "lineage" not in fields:
        return None
    try:
        return parse_lineage(fields["lineage"])
    except ValueError as error:
        raise ModelError(f"{folder / FACTS}: {error}; copy the file again") from None


def _require_unedited(folder: Path) -> None:
    path = find_file(folder, FACTS)
    if path is not None and find_file(folder, NAME) is not None:
        entry = read_manifest(folder).get(FACTS)
        if entry is None or sha256_of(path)[0] != entry["sha256"]:
            raise ModelError(f"{path}: was edited: its SHA-256 is not that of {NAME}; restore the file")


def _add(parent: Parent, ancestors: list[Ancestor], problems: list[str]) -> int:
    """Append `parent` and its own ancestors to the list `ancestors`, even if they are in it already, and return the index of `parent`."""
    lineage, card = None, BaseCard()
    try:
        if parent.folder is not None:
            lineage, card = read_lineage(parent.folder), BaseCard.read(parent.folder)
    except (ModelError, OSError) as error:  # the card is not used either, since it may describe another model
        problems.append(f"the energy and emissions of this model are unknown: {error}")
    index = len(ancestors)
    ancestors.append(_with_totals(Ancestor(last_name(parent.path), (parent.role,), parent.run_id, parent.sha256), lineage, card))
    parents = _add_recorded(parent, lineage, ancestors)
    if parent.base is not None:
        parents.append(_add(parent.base, ancestors, problems))
    if not parents and card.base and (lineage is None or lineage.ancestors is None):
        parents.append(len(ancestors))
        ancestors.append(Ancestor(f"the base of {ancestors[index].name}" if card.base == "?" else card.base, ("start",)))
    ancestors[index] = replace(ancestors[index], parents=tuple(parents))
    return index


def _with_totals(ancestor: Ancestor, lineage: Lineage | None, card: BaseCard) -> Ancestor:
    """Return the ancestor with the energy and emissions in `lineage`, else with the emissions in its model `card`, else with neither."""
    own = lineage.own if lineage else None
    if own is not None and own.emissions_g is not None:
        return replace(ancestor, energy_kwh=own.energy_kwh, emissions_g=own.emissions_g, source="ledger", status=own.status)
    if card.emissions_g is not None:
        return replace(ancestor, emissions_g=card.emissions_g, source="card", status="ok")
    return replace(ancestor, status=own.status if own is not None else "unknown")


def _add_recorded(parent: Parent, lineage: Lineage | None, ancestors: list[Ancestor]) -> list[int]:
    """Append to `ancestors` those that the `lineage` of `parent` lists. Return the indices in `ancestors` of the parents of `parent`."""
    if lineage is None:
        return []
    direct = [entry for entry in lineage.parents if entry.role != _AVERAGED or entry.run_id != parent.run_id]
    first = len(ancestors)
    if lineage.ancestors is None:  # written by an older version of tfkit, which recorded only the parents
        ancestors += [Ancestor(last_name(entry.path or "?"), (entry.role or "?",), entry.run_id, entry.sha256) for entry in direct]
        return [*range(first, len(ancestors))]
    ancestors += shifted(lineage.ancestors, first)
    positions = (position(lineage.ancestors, entry.run_id, entry.sha256) for entry in direct)
    return [index + first for index in dict.fromkeys(positions) if index is not None]
