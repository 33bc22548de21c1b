"""The responses of one iteration with the numbers that its steps read, as tensors that a checkpoint keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tfkit.objectives.rollouts import Response

_OF_TOKENS = "of_tokens/"


@dataclass(frozen=True)
class Experience:
    """An iteration: its responses in the order in which they were sampled, and what the log says of them."""

    iteration: int
    numbers: NDArray[np.int64]  # (N,) of the rows of the prompts
    responses: Sequence[Response]  # N of them
    observed: Mapping[str, float]

    def tensors(self) -> dict[str, Tensor]:
        """Return all but the observations for the training state of a checkpoint."""
        parts = {"prompts": [one.prompt for one in self.responses], "ids": [one.ids for one in self.responses]}
        tensors = {name: torch.from_numpy(np.concatenate(arrays)) for name, arrays in parts.items()}
        tensors |= {f"{name}.sizes": torch.tensor([len(array) for array in arrays]) for name, arrays in parts.items()}
        for name in self.responses[0].of_tokens:
            values = np.concatenate([one.of_tokens[name] for one in self.responses])
            tensors[f"{_OF_TOKENS}{name}"] = torch.from_numpy(values)
        return tensors | {"numbers": torch.from_numpy(self.numbers)}

    def state(self) -> dict[str, Any]:
        """Return the rest, as JSON has it."""
        return {"iteration": self.iteration, "observed": dict(self.observed)}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Self:
        """The inverse of `tensors` and `state`. Raises KeyError, TypeError or ValueError for anything else."""
        sizes = tensors["ids.sizes"].tolist()
        prompts = _split(tensors["prompts"], tensors["prompts.sizes"].tolist())
        ids = _split(tensors["ids"], sizes)
        names = [name for name in tensors if name.startswith(_OF_TOKENS)]
        of_tokens = {name.removeprefix(_OF_TOKENS): _split(tensors[name], sizes) for name in names}
        responses = [
            Response(prompt, own, {name: parts[i] for name, parts in of_tokens.items()})
            for i, (prompt, own) in enumerate(zip(prompts, ids, strict=True))
        ]
        observed = {str(name): float(value) for name, value in state["observed"].items()}
        return cls(int(state["iteration"]), tensors["numbers"].numpy(), responses, observed)


def _split(values: Tensor, sizes: Sequence[int]) -> list[NDArray[Any]]:
    if sum(sizes) != len(values):
        raise ValueError(f"{len(values)} numbers for sizes that sum up to {sum(sizes)}")
    return np.split(values.numpy(), np.cumsum(sizes)[:-1])
