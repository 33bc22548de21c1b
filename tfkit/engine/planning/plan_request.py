"""The request for a plan: the training, and the options. Torch-free: a command, like a run, is metered before torch is imported."""

from collections.abc import Sequence
from dataclasses import dataclass

from tfkit.alignment.user_code import NO_CODE, CodePermission
from tfkit.engine.request.training_request import CheckedRequest, RecipeFromData, finetuning, pretraining
from tfkit.errors import UsageError
from tfkit.recipe import Chain, RecipeText, read_chain
from tfkit.recipe.schema.carbon_section import CarbonSection


@dataclass(frozen=True)
class PlanOptions:
    """Options of a plan."""

    device: str | None = None
    threads: int | None = None
    stages: tuple[str, ...] = ()  # of a chain; empty: all
    probe: int = 0  # number of real steps to take
    ranks: int = 1
    gpu: str | None = None  # of each rank; None: this machine
    code: CodePermission = NO_CODE  # for a probe, besides the files that the recipe names


@dataclass(frozen=True)
class PlanRequest:
    """The checked training that is to be planned: either a run or the stages of a chain."""

    chain: Chain | None
    checked: CheckedRequest | None
    carbon: CarbonSection  # for metering the plan itself


def check_plan_request(
    source: RecipeText | None,
    words: Sequence[str],
    checkpoint: str | None,
    stages: Sequence[str] = (),
    unwritten: RecipeFromData | None = None,
) -> PlanRequest:
    """Check the training that is to be planned. Raises UsageError.

    `words`: key=value, including `model.from` and `data.train`; `checkpoint`: the value of `model.from`, if given; `unwritten`: the recipe
    that is made, where there is no source.
    """
    if source is not None and source.has_stages:
        chain = read_chain(source, words)
        if unknown := [name for name in stages if name not in chain.names]:
            raise UsageError(f"--stages: there is no stage {unknown[0]!r}; the stages are {', '.join(chain.names)}")
        return PlanRequest(chain, None, chain.stages[0].recipe.carbon)
    if stages:
        raise UsageError(f"--stages {','.join(stages)}: the recipe has no stages; leave it out")
    checked = begin(source, words, checkpoint, unwritten)
    return PlanRequest(None, checked, checked.recipe.carbon if checked.recipe is not None else CarbonSection())


def begin(
    source: RecipeText | None, words: Sequence[str], checkpoint: str | None, unwritten: RecipeFromData | None = None
) -> CheckedRequest:
    """Return the checked request: of a fine-tuning if the recipe or `checkpoint` gives a base model. Raises UsageError."""
    if source is None:
        return finetuning(None, words, checkpoint, unwritten)
    has_base = checkpoint is not None or source.read(words).model.start is not None
    return finetuning(source, words, checkpoint) if has_base else pretraining(source, words)
