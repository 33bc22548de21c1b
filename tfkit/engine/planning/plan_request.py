"""The request for a plan: the training, and the options. Torch-free, so that the meter starts before torch is imported."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from tfkit.alignment.user_code import NO_CODE, CodePermission
from tfkit.engine.request.training_request import TrainingRequest
from tfkit.errors import UsageError, argument
from tfkit.recipe import Chain, read_chain
from tfkit.recipe.reading.overrides import Overrides, given_sections
from tfkit.recipe.reading.problems import RecipeError
from tfkit.recipe.schema.carbon_section import CarbonSection


@dataclass(frozen=True)
class PlanOptions:
    """The options of a plan, apart from the training that is planned."""

    device: str | None = None
    threads: int | None = None
    stages: tuple[str, ...] = ()  # of a chain; empty: all
    probe: int = 0  # number of real steps to take
    ranks: int = 1
    gpu: str | None = None  # of each rank; None: this machine
    code: CodePermission = NO_CODE  # for a probe, besides the files that the recipe names


@dataclass(frozen=True)
class PlanRequest:
    """The checked training that is to be planned: a run or, if there is a chain, its stages."""

    training: TrainingRequest
    chain: Chain | None
    carbon: CarbonSection  # for metering the plan itself


def check_plan_request(request: TrainingRequest, stages: Sequence[str] = ()) -> PlanRequest:
    """Check the pre-training or fine-tuning that is to be planned. Raises UsageError."""
    if request.source is not None and request.has_stages:
        chain = read_chain(request.source, request.overrides)
        if unknown := [name for name in stages if name not in chain.names]:
            raise UsageError(f"{argument('stages')}: there is no stage {unknown[0]!r}; the stages are {', '.join(chain.names)}")
        return PlanRequest(request, chain, chain.stages[0].recipe.carbon)
    if stages:
        raise UsageError(f"{argument('stages', ','.join(stages))}: the recipe has no stages; leave it out")
    recipe = request.check()
    return PlanRequest(request, None, recipe.carbon if recipe is not None else _given_carbon(request.overrides))


def _given_carbon(overrides: Overrides) -> CarbonSection:
    """Return the section carbon of a recipe that is yet to be made; its errors are reported when it is made."""
    with suppress(ValueError, RecipeError):
        return CarbonSection.model_validate(given_sections(overrides).get("carbon", {}))
    return CarbonSection()
