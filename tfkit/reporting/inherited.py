"""The ancestors of a run (models from which it was made) and their emissions, from its checkpoint or else from the report's other runs."""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from tfkit.reporting.run_facts import RunFacts
from tfkit.run.card_facts import last_name
from tfkit.run.lineage import Ancestor, Inherited, Source, merge_ancestors, parse_lineage, position, shifted, sum_inherited


@dataclass(frozen=True)
class Ancestry:
    """The models from which a run's model was made, directly or indirectly."""

    ancestors: tuple[Ancestor, ...]  # of all generations, each once
    parents: tuple[int, ...]  # indices of the direct ancestors in `ancestors`
    sums: Inherited  # over all ancestors


def ancestry_of(run: RunFacts, others: Iterable[RunFacts] = ()) -> Ancestry:
    """Return the ancestors of a run; for a chain or a sweep, the ancestors of its stages or trials, except these stages and trials.

    If a run has recorded only its parents, as older versions of tfkit did, facts about the parents come from `others`, by run id.
    """
    by_id = {other.run_id: other for other in others if other.run_id is not None}
    own_ids = [run_id for run_id in (run.run_id, *(member.run_id for member in run.members)) if run_id is not None]
    collected: list[Ancestor] = []
    for member in run.members if run.is_group else (run,):
        _collect(member, by_id, collected, own_ids)
    ancestors = merge_ancestors(collected, own_ids)
    parents = [parent for member in (run, *run.members) for parent in member.parents]
    positions = (position(ancestors, parent.run_id, parent.sha256) for parent in parents)
    direct = tuple(dict.fromkeys(index for index in positions if index is not None))
    indirect = {index for ancestor in ancestors for index in ancestor.parents}
    return Ancestry(ancestors, direct or tuple(index for index in range(len(ancestors)) if index not in indirect), sum_inherited(ancestors))


def _collect(run: RunFacts, by_id: Mapping[str, RunFacts], ancestors: list[Ancestor], descendants: Collection[str]) -> list[int]:
    """Append a run's ancestors to `ancestors`, some twice, and return the indices of its parents. `descendants`: ids of this run and those
    made from it. If one of them is also a parent, which is possible in an edited file, it is not followed: the cycle would never end.
    """
    recorded = None
    with suppress(ValueError):  # an invalid lineage raises ValueError
        recorded = parse_lineage(run.checkpoint.document.fields.get("lineage", {})).ancestors if run.checkpoint else None
    if recorded is not None:
        first = len(ancestors)
        ancestors += shifted(recorded, first)
        positions = (position(recorded, parent.run_id, parent.sha256) for parent in run.parents)
        return [index + first for index in positions if index is not None]
    parents = []
    for parent in run.parents[:100]:
        run_id = parent.run_id
        known = by_id.get(run_id) if run_id and run_id not in descendants and len(descendants) < 100 else None
        parents.append(len(ancestors))
        name = known.name if known else last_name(parent.path or "unknown")
        ancestor = Ancestor(name, (parent.role or "parent",), run_id, parent.sha256)
        ancestors.append(ancestor)
        if known:
            inner = tuple(_collect(known, by_id, ancestors, {*descendants, run_id or ""}))
            energy, grams = known.amounts.energy_kwh, known.amounts.emissions_g
            status = "unknown" if grams is None else "degraded" if known.is_lower_bound else "ok"
            source: Source = "unknown" if grams is None else "ledger"
            ancestors[parents[-1]] = replace(ancestor, energy_kwh=energy, emissions_g=grams, source=source, status=status, parents=inner)
    return parents
