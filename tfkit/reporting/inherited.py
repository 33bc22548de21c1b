"""The cost that a run inherited: the sum over all distinct ancestors of its checkpoint, by run id, or by the hash of the content."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tfkit.reporting.run_facts import RunFacts, number_of, text_of
from tfkit.run.card_facts import last_name


@dataclass(frozen=True)
class Ancestor:
    """A checkpoint that a run goes back to, directly or not. `source`: ledger, card, or unknown; `parents`: indices of ancestors."""

    name: str
    roles: tuple[str, ...]
    run_id: str | None
    sha256: str | None
    energy_kwh: float | None
    emissions_g: float | None
    source: str
    parents: tuple[int, ...] = ()


@dataclass(frozen=True)
class Inherited:
    """The ancestors of a run, all generations; the first of each chain of parents are `direct`. Empty: it began from random weights."""

    ancestors: tuple[Ancestor, ...] = ()
    direct: tuple[int, ...] = ()

    @property
    def is_lower_bound(self) -> bool:
        """Whether the cost of an ancestor is not known."""
        return any(one.emissions_g is None for one in self.ancestors)

    @property
    def emissions_g(self) -> float | None:
        """The known emissions of all ancestors, 0 without any; None: nothing is known of any of them."""
        return _sum(self.ancestors, "emissions_g")

    @property
    def energy_kwh(self) -> float | None:
        """The known energy of all ancestors, 0 without any; None: nothing is known of any of them."""
        return _sum(self.ancestors, "energy_kwh")


def inherited_by(run: RunFacts, others: Iterable[RunFacts] = ()) -> Inherited:
    """Return the ancestors of a run, as its checkpoint records them; where it does not, as far as its parents are among `others`."""
    lineage = run.checkpoint.lineage if run.checkpoint else {}
    if not lineage and isinstance(run.receipt.get("lineage"), dict):
        lineage = run.receipt["lineage"]
    recorded = lineage.get("ancestors")
    if isinstance(recorded, list) and all(isinstance(one, dict) for one in recorded):
        ancestors = tuple(_ancestor(one, len(recorded)) for one in recorded)
        ids = {(parent.get("run_id"), parent.get("sha256")) for parent in run.parents}
        named = tuple(index for index, one in enumerate(ancestors) if (one.run_id, one.sha256) in ids)
        above = {index for one in ancestors for index in one.parents}
        return Inherited(ancestors, named or tuple(index for index in range(len(ancestors)) if index not in above))
    by_id = {one.run_id: one for one in others if one.run_id is not None and one.run_id != run.run_id}
    found: list[Ancestor] = []
    direct = _add_parents(run, by_id, found, {})
    return Inherited(tuple(found), direct)


def _add_parents(run: RunFacts, by_id: Mapping[str, RunFacts], found: list[Ancestor], indices: dict[Any, int]) -> tuple[int, ...]:
    """Append the parents of a run that are not among `found` yet, theirs after them, and return the indices of its own."""
    own: list[int] = []
    for parent in run.parents[:100]:
        run_id, sha256 = text_of(parent, "run_id"), text_of(parent, "sha256")
        key = run_id or sha256 or text_of(parent, "path")
        if key not in indices:
            known = by_id.get(run_id) if run_id else None
            indices[key] = len(found)
            amounts = known.amounts if known else None
            name = known.name if known else last_name(text_of(parent, "path") or "unknown")
            roles = (text_of(parent, "role") or "parent",)
            found.append(
                Ancestor(
                    name,
                    roles,
                    run_id,
                    sha256,
                    amounts.energy_kwh if amounts else None,
                    amounts.emissions_g if amounts else None,
                    "ledger" if amounts and amounts.emissions_g is not None else "unknown",
                )
            )
            if known:
                index = indices[key]
                found[index] = replace(found[index], parents=_add_parents(known, by_id, found, indices))
        own.append(indices[key])
    return tuple(dict.fromkeys(own))


def _ancestor(entry: Mapping[str, Any], count: int) -> Ancestor:
    roles, parents = entry.get("roles"), entry.get("parents")
    return Ancestor(
        text_of(entry, "name") or "unknown",
        tuple(str(role) for role in roles) if isinstance(roles, list) else (),
        text_of(entry, "run_id"),
        text_of(entry, "sha256"),
        number_of(entry, "energy_kwh"),
        number_of(entry, "emissions_g"),
        text_of(entry, "source") or "unknown",
        tuple(index for index in parents if type(index) is int and 0 <= index < count) if isinstance(parents, list) else (),
    )


def _sum(ancestors: Iterable[Ancestor], name: str) -> float | None:
    every = [getattr(one, name) for one in ancestors]
    known = [value for value in every if value is not None]
    return None if every and not known else sum(known)
