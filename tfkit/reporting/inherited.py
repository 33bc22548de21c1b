"""The models that a run comes from, and what they have cost: as its checkpoint records them, else as far as they are among other runs."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from tfkit.reporting.run_facts import RunFacts, text_of
from tfkit.run.card_facts import last_name
from tfkit.run.lineage import Ancestor, Inherited, merge_ancestors, parse_lineage, position, shifted, sum_inherited


@dataclass(frozen=True)
class Ancestry:
    """The distinct ancestors of a run over all generations, the positions of its own parents among them, and their sums."""

    ancestors: tuple[Ancestor, ...] = ()
    parents: tuple[int, ...] = ()
    sums: Inherited = field(default_factory=lambda: sum_inherited(()))

    @property
    def emissions_g(self) -> float | None:
        """The known emissions of all ancestors: 0 without any, None where nothing is known of them."""
        return self.sums.emissions_g if self.ancestors else 0.0

    @property
    def energy_kwh(self) -> float | None:
        """The known energy of all ancestors: 0 without any, None where nothing is known of them."""
        return self.sums.energy_kwh if self.ancestors else 0.0


def ancestry_of(run: RunFacts, others: Iterable[RunFacts] = ()) -> Ancestry:
    """Return the ancestors of a run, of a recipe with stages or a sweep those of all its runs that are none of them.

    Where a version recorded the parents alone, they are looked up by run id among `others`.
    """
    by_id = {one.run_id: one for one in others if one.run_id is not None}
    own = [one for one in (run.run_id, *(member.run_id for member in run.members)) if one is not None]
    found: list[Ancestor] = []
    for each in run.members if run.is_group else (run,):
        _collect(each, by_id, found, own)
    ancestors = merge_ancestors(found, own)
    parents = [parent for each in (run, *run.members) for parent in each.parents]
    places = (position(ancestors, text_of(parent, "run_id"), text_of(parent, "sha256")) for parent in parents)
    direct = tuple(dict.fromkeys(place for place in places if place is not None))
    above = {place for one in ancestors for place in one.parents}
    return Ancestry(ancestors, direct or tuple(place for place in range(len(ancestors)) if place not in above), sum_inherited(ancestors))


def _collect(run: RunFacts, by_id: Mapping[str, RunFacts], found: list[Ancestor], passed: Collection[str]) -> list[int]:
    """Append the ancestors of a run, not merged yet, and return the positions of its parents. `passed`: the runs on the way."""
    recorded = _recorded(run)
    if recorded is not None:
        first = len(found)
        found += shifted(recorded, first)
        places = (position(recorded, text_of(parent, "run_id"), text_of(parent, "sha256")) for parent in run.parents)
        return [place + first for place in places if place is not None]
    own = []
    for parent in run.parents[:100]:
        run_id = text_of(parent, "run_id")
        known = by_id.get(run_id) if run_id and run_id not in passed and len(passed) < 100 else None
        place = len(found)
        name = known.name if known else last_name(text_of(parent, "path") or "unknown")
        found.append(Ancestor(name, (text_of(parent, "role") or "parent",), run_id, text_of(parent, "sha256")))
        if known:
            found[place] = _with_amounts(found[place], known, _collect(known, by_id, found, {*passed, run_id or ""}))
        own.append(place)
    return own


def _recorded(run: RunFacts) -> tuple[Ancestor, ...] | None:
    """Return the ancestors in the checkpoint's tfkit.json; None where it has none, or they cannot be read."""
    try:
        return parse_lineage(run.checkpoint.lineage).ancestors if run.checkpoint else None
    except ValueError:
        return None


def _with_amounts(ancestor: Ancestor, run: RunFacts, parents: list[int]) -> Ancestor:
    grams, is_known = run.amounts.emissions_g, run.amounts.emissions_g is not None
    status = "degraded" if run.is_lower_bound else "ok"
    return Ancestor(
        ancestor.name,
        ancestor.roles,
        ancestor.run_id,
        ancestor.sha256,
        energy_kwh=run.amounts.energy_kwh,
        emissions_g=grams,
        source="ledger" if is_known else "unknown",
        status=status if is_known else "unknown",
        parents=tuple(parents),
    )
