"""The training that is to be planned, and how. Torch-free: a command is metered from before torch is imported, as a run is."""

from collections.abc import Sequence
from dataclasses import dataclass

from tfkit.engine.beginning import Beginning, finetuning, pretraining
from tfkit.errors import UsageError
from tfkit.recipe import Chain, RecipeText, read_chain
from tfkit.recipe.schema.carbon_section import CarbonSection


@dataclass(frozen=True)
class PlanOptions:
    """How a plan is made."""

    device: str | None = None
    threads: int | None = None
    stages: tuple[str, ...] = ()  # of a chain; none: all
    probe: int = 0  # real steps to take
    ranks: int = 1
    gpu: str | None = None  # of each rank; None: this machine


@dataclass(frozen=True)
class Planned:
    """A training that is to be planned, checked: a run, or the stages of a chain."""

    chain: Chain | None
    beginning: Beginning | None
    carbon: CarbonSection  # by which the plan itself is metered


def to_plan(source: RecipeText | None, words: Sequence[str], checkpoint: str | None, stages: Sequence[str] = ()) -> Planned:
    """Check what is to be planned. Raises UsageError.

    `words`: key=value, with those of `model.from` and `data.train`; `checkpoint`: the value of `model.from`, where that is among them.
    """
    if source is not None and source.has_stages:
        chain = read_chain(source, words)
        if unknown := [name for name in stages if name not in chain.names]:
            raise UsageError(f"--stages: there is no stage {unknown[0]!r}; the stages are {', '.join(chain.names)}")
        return Planned(chain, None, chain.stages[0].recipe.carbon)
    if stages:
        raise UsageError(f"--stages {','.join(stages)}: the recipe has no stages; leave it out")
    beginning = begin(source, words, checkpoint)
    return Planned(None, beginning, beginning.recipe.carbon if beginning.recipe is not None else CarbonSection())


def begin(source: RecipeText | None, words: Sequence[str], checkpoint: str | None) -> Beginning:
    """Return the beginning of a run from random weights or from a checkpoint, as the recipe has it. Raises UsageError."""
    if source is None:
        return finetuning(None, words, checkpoint)
    starts = checkpoint is not None or source.read(words).model.start is not None
    return finetuning(source, words, checkpoint) if starts else pretraining(source, words)
