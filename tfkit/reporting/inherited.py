"""The ancestors of a run with their energy and emissions, from the lineage of its checkpoint, or else from the other runs of the report."""

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
        """The known emissions of all ancestors: 0 without ancestors, None if no ancestor's are known."""
        return self.sums.emissions_g if self.ancestors else 0.0

    @property
    def energy_kwh(self) -> float | None:
        """The known energy of all ancestors: 0 without ancestors, None if no ancestor's is known."""
        return self.sums.energy_kwh if self.ancestors else 0.0


def ancestry_of(run: RunFacts, others: Iterable[RunFacts] = ()) -> Ancestry:
    """Return the ancestors of a run; for a recipe with stages or a sweep, those of all its runs, without these runs.

    If an older version recorded only the parents, these are looked up by run id among `others`.
    """
    by_id = {other.run_id: other for other in others if other.run_id is not None}
    own_ids = [run_id for run_id in (run.run_id, *(member.run_id for member in run.members)) if run_id is not None]
    collected: list[Ancestor] = []
    for member in run.members if run.is_group else (run,):
        _collect(member, by_id, collected, own_ids)
    ancestors = merge_ancestors(collected, own_ids)
    parents = [parent for member in (run, *run.members) for parent in member.parents]
    positions = (position(ancestors, text_of(parent, "run_id"), text_of(parent, "sha256")) for parent in parents)
    direct = tuple(dict.fromkeys(index for index in positions if index is not None))
    indirect = {index for ancestor in ancestors for index in ancestor.parents}
    return Ancestry(ancestors, direct or tuple(index for index in range(len(ancestors)) if index not in indirect), sum_inherited(ancestors))


def _collect(run: RunFacts, by_id: Mapping[str, RunFacts], ancestors: list[Ancestor], descendants: Collection[str]) -> list[int]:
    """Append the ancestors of a run, not merged yet, and return the positions of its parents. `descendants`: run ids, to stop at cycles."""
    recorded = _recorded_ancestors(run)
    if recorded is not None:
        first = len(ancestors)
        ancestors += shifted(recorded, first)
        positions = (position(recorded, text_of(parent, "run_id"), text_of(parent, "sha256")) for parent in run.parents)
        return [index + first for index in positions if index is not None]
    parents = []
    for parent in run.parents[:100]:
        run_id = text_of(parent, "run_id")
        known = by_id.get(run_id) if run_id and run_id not in descendants and len(descendants) < 100 else None
        index = len(ancestors)
        name = known.name if known else last_name(text_of(parent, "path") or "unknown")
        ancestors.append(Ancestor(name, (text_of(parent, "role") or "parent",), run_id, text_of(parent, "sha256")))
        if known:
            ancestors[index] = _with_amounts(ancestors[index], known, _collect(known, by_id, ancestors, {*descendants, run_id or ""}))
        parents.append(index)
    return parents


def _recorded_ancestors(run: RunFacts) -> tuple[Ancestor, ...] | None:
    """Return the ancestors in the checkpoint's tfkit.json; None if it has none, or they cannot be read."""
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
