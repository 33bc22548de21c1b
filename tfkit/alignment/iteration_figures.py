"""The figures of an iteration of sampled responses, for the log; and the end of a run whose policy is too far from its reference."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tfkit.alignment.kl import k3
from tfkit.alignment.sampling import Sampled
from tfkit.errors import UnhealthyError
from tfkit.objectives.rollouts import Rollouts


def iteration_figures(
    rollouts: Rollouts, step: int, found: Sequence[Sampled], ratios: Sequence[Tensor], entropies: Sequence[Tensor]
) -> dict[str, float]:
    """Return the numbers of the log; `step`: the first one of the iteration, `ratios`: k1 of each token.

    Raises UnhealthyError where the policy is too far from its reference.
    """
    section = rollouts.section
    kl = float(torch.stack([one.sum() for one in ratios]).mean())
    if section.kl_stop is not None and not kl <= section.kl_stop:
        raise UnhealthyError(
            f"step {step}: the KL of the policy from the initial model is {kl:.4g} nats per response, more than the {section.kl_stop:g} of "
            "objective.kl_stop; no step is taken on these responses. Raise objective.beta, or lower optimizer.lr"
        )
    gold = [one.gold for one in found if one.gold is not None]
    return {
        "reward": sum(one.reward for one in found) / len(found),
        **({"accuracy": sum(one.is_full for one in found) / len(found)} if section.rules else {}),
        **({"gold": sum(gold) / len(gold)} if gold else {}),
        "kl": kl,
        "kl_k3": float(torch.stack([k3(one).sum() for one in ratios]).mean()),
        "entropy": float(torch.cat(list(entropies)).double().mean()),
        "response_length": sum(len(one.ids) for one in found) / len(found),
        "ended": sum(one.ended for one in found) / len(found),
    }
