"""Weights that the ranks of a training share: what all of them do together at rank 0's request.

Rank 0 alone has the run folder and decides what is due, but it holds only its part of the weights: the others take part in its
evaluations, and hand over the tensors of its checkpoints one by one. With one process, or with replicas, nothing here does anything.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tfkit.engine.companions import companion_tensors
from tfkit.engine.components import Components, owner_of, state_tensors
from tfkit.engine.validation import score_validation
from tfkit.generation.inference import inference
from tfkit.hub.tensor_files import LazyTensors
from tfkit.parallel.collectives import ProcessGroup
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.device import eager
from tfkit.training.whole_steps import is_part

if TYPE_CHECKING:
    from tfkit.generation.complete import TextCompletion
    from tfkit.parallel.sharding import Sharding

_CALLS = 64  # of `should_stop`, which is asked before every module of a forward, between two agreements


class SharedWork:
    """The work on a model that a checkpoint or an evaluation needs. Rank 0 calls its methods, the others `serve` what these announce."""

    def __init__(self, recipe: Recipe, components: Components, should_stop: Callable[[], bool]):
        self.recipe, self.components, self.should_stop = recipe, components, should_stop
        self.model, self.weights, self.data = components.stepper.model, components.weights, components.data

    def scores(self) -> dict[str, float] | None:
        """Return the scores of the validation sets with the result of the training so far; None if it was to stop."""
        self._announce("scores")
        return self._scores()

    def completions(self) -> "list[TextCompletion] | None":
        """Return what the model writes to the recipe's prompts; None if it was to stop."""
        self._announce("completions")
        return self._completions()

    def facts(self) -> dict[str, Any]:
        """Return what the objective says of the checkpoint of this step."""
        if not self.data.objective.has_facts:
            return {}
        self._announce("facts")
        return self._facts()

    def are_finite(self) -> bool:
        """Whether all weights that a step changes are finite."""
        self._announce("finite")
        return self._are_finite()

    def tensors(self, kind: str, beside: Mapping[str, Tensor] | None = None) -> Mapping[str, Tensor]:
        """Return the `result` of the training so far, the `latest` weights, or the training `state`, and others beside them: of what ranks
        share the whole, each gathered when it is read.
        """
        found = {**self._parts(kind), **(beside or {})}
        if self.weights.sharding is None:
            return found
        return _Gathered(found, self._shardings, lambda name: self._announce("tensor", kind=kind, name=name))

    def serve(self, message: Mapping[str, Any]) -> bool:
        """Take part in what rank 0 has announced; whether that was work of this kind."""
        match message.get("work"):
            case "scores":
                self._scores()
            case "completions":
                self._completions()
            case "facts":
                self._facts()
            case "finite":
                self._are_finite()
            case "tensor":
                companion, name = owner_of(message["name"])
                self._shardings[companion].gather(name, self._parts(message["kind"])[message["name"]])
            case _:
                return False
        return True

    @property
    def _shardings(self) -> "dict[str, Sharding]":
        """Those of the model of the run, under an empty name, and of trained companions."""
        everything = self.components.stepper.all_weights
        return {name: weights.sharding for name, weights in everything.items() if weights.sharding is not None}

    def _announce(self, work: str, **details: str) -> None:
        if self.weights.sharding is not None:
            group = self.components.stepper.peers
            assert isinstance(group, ProcessGroup)
            group.announce({"work": work, **details})

    def _agreed_stop(self) -> Callable[[], bool]:
        """Return when the work is to stop, on all ranks that do it in the same place."""
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

    def _scores(self) -> dict[str, float] | None:
        with eager(self.model), self.weights.result_at_work():
            return score_validation(self.recipe, self.data, self.model, self._agreed_stop(), self.components.reference)

    def _completions(self) -> "list[TextCompletion] | None":
        from tfkit.generation.complete import complete, encode_prompts

        tokenizer, should_stop = self.data.tokenizer, self._agreed_stop()
        texts, rendered = self.data.objective.prompts(self.recipe.generation.prompts)
        with eager(self.model), self.weights.result_at_work():
            completions = complete(
                self.model,
                tokenizer,
                encode_prompts(self.model, tokenizer, texts, rendered=rendered),
                self.recipe.generation,
                eos_ids=self.data.end_ids,
                start_id=tokenizer.start_id,
                should_stop=should_stop,
            )
        return None if should_stop() else completions  # some may be cut short; resuming writes them whole

    def _facts(self) -> dict[str, Any]:
        stored = [one for one, _ in self.data.train]
        with inference(self.model), self.weights.unrounded_result_at_work():
            return self.data.objective.facts(self.model, stored, self.recipe.evaluation.batch_size)

    def _are_finite(self) -> bool:
        return all(weights.finite() for weights in self.components.stepper.all_weights.values())

    def _parts(self, kind: str) -> dict[str, Tensor]:
        match kind:
            case "result":
                return self.weights.result
            case "latest":
                return {**self.weights.master, **companion_tensors(self.components.stepper.companions)}
        parts, has_factors = self.components, self.recipe.training.adapter is not None
        return state_tensors(self.weights, parts.optimizer, parts.stepper.companions, factors=has_factors)


class _Gathered(LazyTensors):
    """Tensors of which this rank may have only a part; a whole one is gathered when it is read."""

    def __init__(self, parts: Mapping[str, Tensor], shardings: "Mapping[str, Sharding]", announce: Callable[[str], None]):
        """`shardings`: by the names that `owner_of` gives."""
        self._parts, self._shardings, self._announce = parts, shardings, announce

    def __getitem__(self, key: str) -> Tensor:
        if self._whole_shape(key) is None:
            return self._parts[key]
        self._announce(key)
        companion, name = owner_of(key)
        return self._shardings[companion].gather(name, self._parts[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __contains__(self, key: object) -> bool:
        return key in self._parts

    @property
    def layout(self) -> dict[str, tuple[torch.dtype, torch.Size]]:
        """Types and whole shapes."""
        return {key: (part.dtype, self._whole_shape(key) or part.shape) for key, part in self._parts.items()}

    def _whole_shape(self, key: str) -> torch.Size | None:
        """Return the shape of the whole of which this rank has a part; None where it has all."""
        companion, name = owner_of(key)
        parameter = self._shardings[companion].parameters.get(name)
        return parameter.shape if parameter is not None and is_part(self._parts[key], parameter) else None
