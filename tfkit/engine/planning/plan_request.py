"""The request for a plan, by `tfkit plan` or by a call in Python: the training to plan, and the options of the plan.

This module does not import torch, so that the energy meter starts before torch is imported.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from tfkit.alignment.user_code import NO_CODE, CodePermission
from tfkit.engine.request.training_request import TrainingRequest
from tfkit.errors import UsageError, argument
from tfkit.recipe import Chain, read_chain
from tfkit.recipe.reading.overrides import given_sections
from tfkit.recipe.schema.carbon_section import CarbonSection


@dataclass(frozen=True)
class PlanOptions:
    """The options of a plan, apart from the training that is planned."""

    device: str | None = None
    threads: int | None = None
    stages: tuple[str, ...] = ()  # names of the stages to plan, in a recipe with stages; empty: all
    probe: int = 0  # number of real steps to take and measure
    ranks: int = 1
    gpu: str | None = None  # the GPU of each rank, a key of GPUS; None: each rank has a machine like this one
    code: CodePermission = NO_CODE  # code files, such as reward functions, that a probe may run besides those that the recipe names


@dataclass(frozen=True)
class PlanRequest:
    """The checked training to plan: a single run or, if `chain` is not None, a chain (the stages of one recipe, trained in order)."""

    training: TrainingRequest
    chain: Chain | None
    carbon: CarbonSection  # for metering the plan itself


def check_plan_request(request: TrainingRequest, stages: Sequence[str] = ()) -> PlanRequest:
    """Check the training to plan, and that its recipe has the `stages`. Raises UsageError for an invalid request."""
    if request.source is not None and request.has_stages:
        chain = read_chain(request.source, request.overrides)
        if unknown := [name for name in stages if name not in chain.names]:
            raise UsageError(f"{argument('stages')}: there is no stage {unknown[0]!r}; the stages are {', '.join(chain.names)}")
        return PlanRequest(request, chain, chain.stages[0].recipe.carbon)
    if stages:
        raise UsageError(f"{argument('stages', ','.join(stages))}: the recipe has no stages; leave it out")
    if (recipe := request.check()) is not None:
        return PlanRequest(request, None, recipe.carbon)
    carbon = CarbonSection()
    with suppress(ValueError):  # an invalid section is reported when the recipe is made from the data
        carbon = CarbonSection.model_validate(given_sections(request.overrides).get("carbon", {}))
    return PlanRequest(request, None, carbon)
