"""The sums of a step over its micro-batches, those of all ranks: the counts of its terms, their losses, and what is observed."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, maximum

from tfkit.objectives.objective import Batch, Objective
from tfkit.parallel.agreement import Peers

_TOKENS = ""  # the name of the tokens among the counts; no term is called so


def total_counts(objective: Objective, batches: Sequence[Batch], peers: Peers) -> tuple[dict[str, int], int]:
    """Return the counts of the terms and the tokens of the whole step; `batches`: those of this rank."""
    own: Counter[str] = Counter()
    for batch in batches:
        own.update(objective.counts(batch))
    total = peers.total({**own, _TOKENS: sum(batch.tokens for batch in batches)})
    return {term: total[term] for term in own}, total[_TOKENS]


def joined(objective: Objective, parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join the terms and observations of micro-batches: sums are added, of maxima the larger counts."""
    sums: dict[str, Tensor] = {}
    for part in parts:
        for name, value in part.items():
            one = objective.observed.get(name)
            join = maximum if one is not None and one.term is None else Tensor.add
            sums[name] = join(sums[name], value) if name in sums else value
    return sums


def observations(objective: Objective, sums: Mapping[str, Tensor], counts: Mapping[str, int]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the means and the maxima among the objective's observations."""
    found = [(name, one.term, float(sums[name])) for name, one in objective.observed.items() if name in sums]
    means = {name: value / counts[term] for name, term, value in found if term is not None}
    return means, {name: value for name, term, value in found if term is None}
