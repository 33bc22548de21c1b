"""The computations on a run's model that evaluations and checkpoints need.

Rank 0 alone decides when to evaluate and save, and writes scores and checkpoints. With sharded weights, it needs the other ranks: they take
part in evaluations, and in gathering the tensors of a checkpoint one by one. Without sharding, rank 0 works alone.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tfkit.engine.assembly.components import Components
from tfkit.engine.assembly.training_state import companion_tensors, owner_of, state_tensors
from tfkit.engine.assembly.validation import SetScores, score_validation
from tfkit.generation.inference import inference
from tfkit.hub.tensor_files import LazyTensors
from tfkit.parallel.collectives import ProcessGroup
from tfkit.recipe.schema.sections import Recipe
from tfkit.tokenizer.conversations import end_ids
from tfkit.training.device import eager
from tfkit.training.optimizer import is_shard_of

if TYPE_CHECKING:
    from tfkit.generation.complete import TextCompletion
    from tfkit.parallel.sharding import Sharding

_ANNOUNCED = ("scores", "completions", "facts", "are_finite", "gather")  # methods of ModelWork that rank 0 announces when it calls them
_CALLS = 64  # calls of `should_stop` after which the ranks agree again whether to stop; each module of a forward pass calls it once


class ModelWork:
    """Computes a model's scores, its completions and the facts that a checkpoint stores about it, and gathers its tensors. Rank 0 calls
    the methods for this; the other ranks call `serve`, which takes part in them.
    """

    def __init__(self, recipe: Recipe, components: Components, should_stop: Callable[[], bool]):
        self.recipe, self.components, self.should_stop = recipe, components, should_stop
        self.model, self.weights, self.data = components.stepper.model, components.stepper.weights, components.data

    def scores(self) -> SetScores | None:
        """Return the scores of the current weights (with ema_decay, of their moving average) on the validation sets; None if stopped."""
        self._announce("scores")
        with eager(self.model), self.weights.use_result():
            return score_validation(self.recipe, self.data, self.model, self._agreed_stop(), self.components.reference)

    def completions(self) -> "list[TextCompletion] | None":
        """Return the model's completions of the recipe's prompts; None after a stop request."""
        from tfkit.generation.complete import complete, encode_prompts
        from tfkit.generation.next_token import Constraints

        self._announce("completions")
        tokenizer, should_stop = self.data.tokenizer, self._agreed_stop()
        texts, rendered = self.data.objective.prompts(self.recipe.generation.prompts)
        with eager(self.model), self.weights.use_result():
            completions = complete(
                self.model,
                tokenizer,
                encode_prompts(self.model, tokenizer, texts, rendered=rendered),
                self.recipe.generation,
                eos_ids=end_ids(tokenizer),
                start_id=tokenizer.start_id,
                constraints=Constraints(forced_first=tokenizer.forced_first_id),
                should_stop=should_stop,
            )
        return None if should_stop() else completions  # after a stop, some completions are incomplete; a resumed run generates all again

    def facts(self) -> dict[str, Any]:
        """Return what the objective stores in a checkpoint's tfkit.json, such as a reward model's mean score; empty for most objectives."""
        if not self.data.objective.has_facts:
            return {}
        self._announce("facts")
        stored = [one for one, _ in self.data.train]
        with inference(self.model), self.weights.use_unrounded_result():
            return self.data.objective.facts(self.model, stored, self.recipe.evaluation.batch_size)

    def are_finite(self) -> bool:
        """Whether all weights that a step updates are finite."""
        self._announce("are_finite")
        return all(weights.finite() for weights in self.components.stepper.all_weights.values())

    def tensors(self, kind: str, beside: Mapping[str, Tensor] | None = None) -> Mapping[str, Tensor]:
        """Return the unsharded tensors of a `kind`, with those in `beside` added. A sharded tensor is gathered when it is read.

        `kind`: "result", the current weights or, with ema_decay, their moving average; "latest", the current fp32 weights, also those of
        trained companions (such as PPO's value model); "state", the training state, such as the optimizer's.
        """
        tensors = {**self._local_tensors(kind), **(beside or {})}
        if self.weights.sharding is None:
            return tensors
        return _Gathered(tensors, self._shardings, lambda key: self.gather(kind, key))

    def gather(self, kind: str, key: str) -> Tensor:
        """Return one sharded tensor of `tensors(kind)`, gathered from all ranks."""
        self._announce("gather", kind, key)
        companion, name = owner_of(key)
        return self._shardings[companion].gather(name, self._local_tensors(kind)[key])

    def serve(self) -> dict[str, Any]:
        """Take part in the methods that rank 0 announces, until rank 0 announces something else; return that announcement."""
        while (work := (message := self.group.receive()).get("work")) is not None:
            assert work in _ANNOUNCED, work
            getattr(self, work)(*message["of"])
        return message

    @property
    def _shardings(self) -> "dict[str, Sharding]":
        """The shardings of the trained companions, by name, and of the run's model, under the name ""; unsharded models are left out."""
        everything = self.components.stepper.all_weights
        return {name: weights.sharding for name, weights in everything.items() if weights.sharding is not None}

    @property
    def group(self) -> ProcessGroup:
        """The process group of the ranks. There must be several ranks."""
        group = self.components.stepper.peers
        assert isinstance(group, ProcessGroup)
        return group

    def _announce(self, work: str, *of: str) -> None:
        if self.weights.sharding is not None and self.group.ranks.is_first:
            self.group.announce({"work": work, "of": of})

    def _agreed_stop(self) -> Callable[[], bool]:
        """Return a function that says whether to stop; with sharded weights, the same on all ranks: True once one was asked to stop."""
        if self.weights.sharding is None:
            return self.should_stop
        calls, stops = 0, False

        def should_stop() -> bool:
            nonlocal calls, stops
            if calls % _CALLS == 0 and not stops:
                stops = bool(self.components.stepper.peers.agree(int(self.should_stop())))
            calls += 1
            return stops

        return should_stop

    def _local_tensors(self, kind: str) -> dict[str, Tensor]:
        match kind:
            case "result":
                return self.weights.result
            case "latest":
                return {**self.weights.master, **companion_tensors(self.components.stepper.companions)}
        components, has_factors = self.components, self.recipe.training.adapter is not None
        return state_tensors(self.weights, components.stepper.optimizer, components.stepper.companions, factors=has_factors)


class _Gathered(LazyTensors):
    """Tensors by name. A tensor of which this rank holds only a shard is gathered when it is read."""

    def __init__(self, local: Mapping[str, Tensor], shardings: "Mapping[str, Sharding]", gather: Callable[[str], Tensor]):
        """`shardings`: the sharding of each sharded model, by the name of the companion; "" for the run's model."""
        self._local, self._shardings, self._gather = local, shardings, gather

    def __getitem__(self, key: str) -> Tensor:
        return self._local[key] if self._whole_shape(key) is None else self._gather(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._local)

    def __len__(self) -> int:
        return len(self._local)

    def __contains__(self, key: object) -> bool:
        return key in self._local

    @property
    def layout(self) -> dict[str, tuple[torch.dtype, torch.Size]]:
        """The dtype and the unsharded shape of each tensor, by name."""
        return {key: (tensor.dtype, self._whole_shape(key) or tensor.shape) for key, tensor in self._local.items()}

    def _whole_shape(self, key: str) -> torch.Size | None:
        """Return the unsharded shape of a tensor of which this rank holds a shard; None if it holds the whole tensor."""
        companion, name = owner_of(key)
        parameter = self._shardings[companion].parameters.get(name)
        return parameter.shape if parameter is not None and is_shard_of(self._local[key], parameter) else None
