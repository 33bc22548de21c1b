"""The sums of a step over the micro-batches of all ranks: the counts of its terms, their losses, and its observations."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, maximum

from tfkit.objectives.objective import Batch, Objective
from tfkit.parallel.agreement import Peers

_TOKENS = ""  # the key of the tokens among the counts; no term has this name


def total_counts(objective: Objective, batches: Sequence[Batch], peers: Peers) -> tuple[dict[str, int], int]:
    """Return the counts of the terms and the number of tokens of the whole step; `batches`: this rank's micro-batches."""
    counts: Counter[str] = Counter()
    for batch in batches:
        counts.update(objective.counts(batch))
    total = peers.total({**counts, _TOKENS: sum(batch.tokens for batch in batches)})
    return {term: total[term] for term in counts}, total[_TOKENS]


def joined(objective: Objective, parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join the losses and observations of micro-batches: sums are added, and the larger of two maxima is kept."""
    sums: dict[str, Tensor] = {}
    for part in parts:
        for name, value in part.items():
            observation = objective.observed.get(name)
            join = maximum if observation is not None and observation.term is None else Tensor.add
            sums[name] = join(sums[name], value) if name in sums else value
    return sums


def observations(objective: Objective, sums: Mapping[str, Tensor], counts: Mapping[str, int]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the objective's observations in a step: those that are means, and those that are maxima."""
    values = [(name, observation.term, float(sums[name])) for name, observation in objective.observed.items() if name in sums]
    means = {name: value / counts[term] for name, term, value in values if term is not None}
    return means, {name: value for name, term, value in values if term is None}
