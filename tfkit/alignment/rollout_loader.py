"""The loader of sampled responses, used in place of a loader of rows. In an iteration, responses are sampled, then steps train on them.

    iteration i: its prompts, a function of (seed, i)  ->  responses, sampled with the seeds (seed, i, prompt, completion)  ->  rewards
        ->  log-probabilities before the first step, by policy and reference  ->  advantages
        ->  steps: the responses, permuted by (seed, i, which pass over them), in batches

An iteration depends only on recipe, data, i, the weights before it and an adaptive KL coefficient. Checkpoints in it hold its responses.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tfkit.adapters import FrozenReference
from tfkit.alignment.advantages import AdaptiveCoefficient, group_advantages, k3, token_credit
from tfkit.alignment.policy_forward import initial_statistics
from tfkit.alignment.response_sampling import SampledResponse, sample
from tfkit.alignment.rewards import Rules
from tfkit.data import BatchSizes, Loader, Rows
from tfkit.data.order.draws import permutation
from tfkit.errors import UnhealthyError
from tfkit.model.transformer import Transformer
from tfkit.objectives.objective import Batch, Objective
from tfkit.objectives.rollouts import GroupBaseline, Response, Rollouts, ValueBaseline, response_batch
from tfkit.parallel.rank_map import UNWATCHED, BatchWork

SAMPLED_MICRO_BATCHES = 8  # a batch of sampling is as large as this many micro-batches, since without a backward pass it needs less memory
_TOKEN_VALUES = "of_tokens/"  # the prefix of the names of token values in the training state


@dataclass(frozen=True)
class Experience:
    """The responses of an iteration, in the order of sampling, and its metrics."""

    iteration: int
    numbers: NDArray[np.int64]  # (N,): the row index of each response's prompt
    responses: Sequence[Response]  # N responses
    observed: Mapping[str, float]  # the metrics, by name

    def tensors(self) -> dict[str, Tensor]:
        """Return the prompts, their row indices, the responses and their token values (such as advantages), as a checkpoint stores them."""
        sequences = {"prompts": [response.prompt for response in self.responses], "ids": [response.ids for response in self.responses]}
        tensors = {name: torch.from_numpy(np.concatenate(arrays)) for name, arrays in sequences.items()}
        tensors |= {f"{name}.sizes": torch.tensor([len(array) for array in arrays]) for name, arrays in sequences.items()}
        for name in self.responses[0].token_values:
            values = np.concatenate([response.token_values[name] for response in self.responses])
            tensors[f"{_TOKEN_VALUES}{name}"] = torch.from_numpy(values)
        return tensors | {"numbers": torch.from_numpy(self.numbers)}

    def state(self) -> dict[str, Any]:
        """Return the index of the iteration, and its metrics, as JSON values."""
        return {"iteration": self.iteration, "observed": dict(self.observed)}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Self:
        """Restore an Experience from its `tensors` and `state`. Raises KeyError, TypeError or ValueError for invalid content."""
        sizes = tensors["ids.sizes"].tolist()
        prompts = _split(tensors["prompts"], tensors["prompts.sizes"].tolist())
        ids = _split(tensors["ids"], sizes)
        names = [name for name in tensors if name.startswith(_TOKEN_VALUES)]
        token_values = {name.removeprefix(_TOKEN_VALUES): _split(tensors[name], sizes) for name in names}
        responses = [
            Response(prompt, response, {name: parts[i] for name, parts in token_values.items()})
            for i, (prompt, response) in enumerate(zip(prompts, ids, strict=True))
        ]
        observed = {str(name): float(value) for name, value in state["observed"].items()}
        return cls(int(state["iteration"]), tensors["numbers"].numpy(), responses, observed)


def _split(values: Tensor, sizes: Sequence[int]) -> list[NDArray[Any]]:
    if sum(sizes) != len(values):
        raise ValueError(f"{len(values)} numbers for sizes that sum up to {sum(sizes)}")
    return np.split(values.numpy(), np.cumsum(sizes)[:-1])


class RolloutLoader:
    """Samples an iteration's responses at its first step, and returns the batches of each step. `micro_batch_size` may change at any time.

    `policy`: the model in training; `uncompiled`: returns a context in which it is not compiled; `work`: shares sampling among ranks.
    """

    def __init__(
        self,
        rows: Rows,
        objective: Objective,
        sizes: BatchSizes,
        micro_batch_size: int,
        *,
        policy: Transformer,
        reference: FrozenReference,
        rules: Rules,
        device: torch.device,
        seed: int,
        uncompiled: Callable[[], AbstractContextManager[None]],
        work: BatchWork = UNWATCHED,
    ):
        assert objective.rollouts is not None, "an objective without rollouts has a Loader"
        self.rows, self.objective, self.sizes, self.micro_batch_size = rows, objective, sizes, micro_batch_size
        self.policy, self.reference, self.rules, self.device, self.seed = policy, reference, rules, device, seed
        self.uncompiled, self.work = uncompiled, work
        self.rank, self.ranks = 0, 1  # `step` returns every `ranks`-th micro-batch, from the index `rank` on
        self.collate, self.rollouts = objective.collate, objective.rollouts
        self.pad_id = self.rollouts.tokenizer.pad_id or 0
        self._experience: Experience | None = None
        self._coefficient: AdaptiveCoefficient | None = None  # None: objective.beta is constant
        baseline = self.rollouts.baseline
        if isinstance(baseline, ValueBaseline) and baseline.kl_target is not None:
            self._coefficient = AdaptiveCoefficient(self.rollouts.section.beta, baseline.kl_target, baseline.kl_horizon)
        self._prompts = Loader(rows, objective.collate, self.rollouts.section.prompts * self.rollouts.readings, 1)

    @property
    def steps(self) -> int:
        """The number of steps in an iteration."""
        return self.rollouts.responses * self.rollouts.section.inner_epochs // self.sizes.full

    def step(self, n: int) -> list[Batch]:
        """Return the micro-batches of step n, counted from 0. If the run has several ranks, return only those of this rank.

        Raises Stopped if `work` is stopped during sampling, and UnhealthyError if the iteration's mean KL exceeds objective.kl_stop.
        """
        experience = self._of_step(n)
        responses = [experience.responses[index] for index in self._indices(n)]
        starts = range(0, len(responses), self.micro_batch_size)[self.rank :: self.ranks]
        return [response_batch(responses[start : start + self.micro_batch_size], self.pad_id) for start in starts]

    def numbers(self, n: int) -> NDArray[np.int64]:
        """Return, for each response of step n, the row index of its prompt, (B,)."""
        return self._of_step(n).numbers[self._indices(n)]

    def observed(self) -> dict[str, float]:
        """Return the metrics of the latest iteration; empty before the first."""
        return dict(self._experience.observed) if self._experience is not None else {}

    def state(self, n: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the state for resuming at step n: an adaptive beta, and the responses of the step's iteration if already sampled."""
        beta = {"beta": self._coefficient.value} if self._coefficient is not None else {}
        if self._experience is None or self._experience.iteration != n // self.steps:
            return {}, beta
        return self._experience.tensors(), self._experience.state() | beta

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore the loader from the tensors and the values that `state` returned."""
        self._experience = Experience.restored(tensors, state) if tensors else None
        if self._coefficient is not None and "beta" in state:
            self._coefficient = replace(self._coefficient, value=float(state["beta"]))

    # ------------------------------------------------------------------------------------------------ the order of the responses

    def _indices(self, n: int) -> NDArray[np.int64]:
        """Return the indices of step n's responses among the responses of its iteration."""
        iteration, step = divmod(n, self.steps)
        inner, start = divmod(step * self.sizes.full, self.rollouts.responses)
        order = permutation(np.random.PCG64([self.seed, iteration, inner]), self.rollouts.responses)
        return order[start : start + self.sizes.full]

    def _of_step(self, n: int) -> Experience:
        iteration = n // self.steps
        if self._experience is None or self._experience.iteration != iteration:
            self._experience = self._sample(iteration)
        return self._experience

    # ------------------------------------------------------------------------------------------------ an iteration

    def _sample(self, iteration: int) -> Experience:
        readings, completions = self.rollouts.readings, self.rollouts.section.completions
        numbers, epochs = self._prompts.numbers(iteration)[::readings], self._prompts.epochs(iteration)[::readings]
        with self.uncompiled():
            sampled = sample(
                self.policy,
                self.rows.gather(epochs, numbers).single(),
                self.rollouts,
                self.rules,
                completions=completions,
                seed=int(np.random.SeedSequence([self.seed, iteration]).generate_state(1)[0]),
                batch_size=SAMPLED_MICRO_BATCHES * self.micro_batch_size,
                work=self.work,
            )
        log_probs, reference_log_probs, entropies, values = initial_statistics(
            sampled, self._first_pass(iteration), self.rollouts, self.policy, self.reference, self.device, self.work
        )
        pairs = zip(log_probs, reference_log_probs, strict=True)
        log_ratios = [policy.double() - reference.double() for policy, reference in pairs]  # the KL estimate k1 at each token
        observed = _iteration_metrics(self.rollouts, iteration * self.steps + 1, sampled, log_ratios, entropies)
        rewards = torch.tensor([response.reward for response in sampled], dtype=torch.float64)
        match self.rollouts.baseline:
            case GroupBaseline() as baseline:
                advantages = self._group_advantages(rewards, log_ratios, baseline)
                observed["zero_advantages"] = float((advantages == 0).double().mean())
                by_response = zip(sampled, advantages.tolist(), strict=True)
                token_values = {"advantages": [torch.full((len(response.ids),), advantage) for response, advantage in by_response]}
            case ValueBaseline() as baseline:
                beta = self.rollouts.section.beta
                if self._coefficient is not None:
                    beta = observed["beta"] = self._coefficient.value
                    self._coefficient = self._coefficient.after(observed["kl"], len(sampled))
                credit = token_credit(rewards, log_ratios, values, beta=beta, gamma=baseline.gamma, gae_lambda=baseline.gae_lambda)
                token_values = {"advantages": credit.advantages, "returns": credit.returns, "values": values}
                if credit.explained_variance is not None:
                    observed["explained_variance"] = credit.explained_variance
        token_values["log_probs"] = log_probs
        responses = [
            Response(np.array(one.prompt), np.array(one.ids), {name: values[i].float().numpy() for name, values in token_values.items()})
            for i, one in enumerate(sampled)
        ]
        return Experience(iteration, np.repeat(numbers, completions), responses, observed)

    def _first_pass(self, iteration: int) -> list[NDArray[np.int64]]:
        """Return the indices of the responses in each micro-batch of the first pass over them."""
        first = iteration * self.steps
        return [
            indices[start : start + self.micro_batch_size]
            for indices in map(self._indices, range(first, first + self.rollouts.responses // self.sizes.full))
            for start in range(0, len(indices), self.micro_batch_size)
        ]

    def _group_advantages(self, rewards: Tensor, log_ratios: Sequence[Tensor], baseline: GroupBaseline) -> Tensor:
        """Return the advantage of each response, (N,), after lowering its reward by beta times the response's k1 estimate of the KL."""
        if beta := self.rollouts.section.beta:
            rewards = rewards - beta * torch.stack([ratios.sum() for ratios in log_ratios])
        groups = rewards.reshape(-1, self.rollouts.section.completions)
        return group_advantages(groups, is_scaled=baseline.is_scaled).flatten()


def _iteration_metrics(
    rollouts: Rollouts, step: int, sampled: Sequence[SampledResponse], log_ratios: Sequence[Tensor], entropies: Sequence[Tensor]
) -> dict[str, float]:
    """Return an iteration's metrics. `step`: its first step, counted from 1; `log_ratios`: (n,) for each response, the k1 of each token.

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
