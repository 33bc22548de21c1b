"""The responses of one iteration with the values that its steps read, as tensors for checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tfkit.objectives.rollouts import Response

_TOKEN_VALUES = "of_tokens/"


@dataclass(frozen=True)
class Experience:
    """The responses of an iteration, in the order of sampling, and its metrics."""

    iteration: int
    numbers: NDArray[np.int64]  # (N,): the row numbers of the prompts
    responses: Sequence[Response]  # N of them
    observed: Mapping[str, float]

    def tensors(self) -> dict[str, Tensor]:
        """Return everything but `state` for the training state of a checkpoint."""
        sequences = {"prompts": [response.prompt for response in self.responses], "ids": [response.ids for response in self.responses]}
        tensors = {name: torch.from_numpy(np.concatenate(arrays)) for name, arrays in sequences.items()}
        tensors |= {f"{name}.sizes": torch.tensor([len(array) for array in arrays]) for name, arrays in sequences.items()}
        for name in self.responses[0].token_values:
            values = np.concatenate([response.token_values[name] for response in self.responses])
            tensors[f"{_TOKEN_VALUES}{name}"] = torch.from_numpy(values)
        return tensors | {"numbers": torch.from_numpy(self.numbers)}

    def state(self) -> dict[str, Any]:
        """Return the iteration and its metrics, as JSON values."""
        return {"iteration": self.iteration, "observed": dict(self.observed)}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Self:
        """Restore the results of `tensors` and `state`. Raises KeyError, TypeError or ValueError for other content."""
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
