"""The metrics of an iteration of sampled responses; and the limit on the KL of a policy from its reference."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tfkit.alignment.kl import k3
from tfkit.alignment.sampling import SampledResponse
from tfkit.errors import UnhealthyError
from tfkit.objectives.rollouts import Rollouts


def iteration_metrics(
    rollouts: Rollouts, step: int, sampled: Sequence[SampledResponse], log_ratios: Sequence[Tensor], entropies: Sequence[Tensor]
) -> dict[str, float]:
    """Return the metrics for the log. `step`: the iteration's first, from 1; `log_ratios`: k1 of the tokens of each response (n,).

    Raises UnhealthyError if the mean KL exceeds objective.kl_stop.
    """
    section = rollouts.section
    kl = float(torch.stack([ratios.sum() for ratios in log_ratios]).mean())
    if section.kl_stop is not None and not kl <= section.kl_stop:
        raise UnhealthyError(
            f"step {step}: the KL of the policy from the initial model is {kl:.4g} nats per response, more than the {section.kl_stop:g} of "
            "objective.kl_stop; no step is taken on these responses. Raise objective.beta, or lower optimizer.lr"
        )
    gold = [response.gold for response in sampled if response.gold is not None]
    return {
        "reward": sum(response.reward for response in sampled) / len(sampled),
        **({"accuracy": sum(response.is_full for response in sampled) / len(sampled)} if section.rules else {}),
        **({"gold": sum(gold) / len(gold)} if gold else {}),
        "kl": kl,
        "kl_k3": float(torch.stack([k3(ratios).sum() for ratios in log_ratios]).mean()),
        "entropy": float(torch.cat(list(entropies)).double().mean()),
        "response_length": sum(len(response.ids) for response in sampled) / len(sampled),
        "ended": sum(response.ended for response in sampled) / len(sampled),
    }
