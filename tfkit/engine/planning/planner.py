"""A plan of a training, whose data are prepared as for the run; no run folder is made. Of a chain each stage is planned, and the sum."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tfkit.engine.beginning import Beginning, Decided, finetuning, pretraining, require_trainable
from tfkit.engine.chain_plan import of_stage
from tfkit.engine.listener import Listener
from tfkit.engine.planning.cluster import require_known_gpu, require_ranks, with_cluster
from tfkit.engine.planning.estimate import Estimate, sum_of_stages
from tfkit.engine.planning.placeholder_model import write_placeholder
from tfkit.engine.planning.trial_steps import take_trial, with_trial
from tfkit.engine.run import Run
from tfkit.engine.session import Session
from tfkit.errors import TfkitError, UsageError
from tfkit.recipe import Chain, RecipeText, read_chain
from tfkit.recipe.schema.carbon_section import CarbonSection
from tfkit.training.device import pick_device


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
            raise UsageError(f"--stages: there is no stage {unknown[0]!r}; there are {', '.join(chain.names)}")
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


def make_plan(planned: Planned, work: Session, options: PlanOptions) -> Estimate:
    """Estimate the run, or every stage and their sum. Raises what a training would raise before its first step."""
    require_known_gpu(options.gpu, options.probe, options.ranks)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if planned.chain is not None:
        return _plan_chain(planned.chain, work, options)
    assert planned.beginning is not None
    return _estimated(_prepared(planned.beginning.decide, work, options), work, options)


def _estimated(run: Run, work: Session, options: PlanOptions) -> Estimate:
    """Return the estimate of a prepared run, after real steps where they are asked for."""
    plan = run.planned
    if options.probe:
        trial = take_trial(run.recipe, run.data, run.device, options.probe, work.listener, work.stop, work.meter)
        plan = with_trial(plan, run.recipe, trial, run.device)
    if options.ranks > 1 or options.gpu is not None:
        plan = with_cluster(plan, run.recipe, run.data, options.ranks, options.gpu)
    return plan


def _prepared(decide: Callable[[Listener], Decided], work: Session, options: PlanOptions) -> Run:
    with work.stop.at_once():
        decided = decide(work.listener)
    require_trainable(decided.recipe)
    require_ranks(decided.recipe, options.ranks)
    run = Run(decided.recipe, pick_device(options.device), work.listener, work.stop, work.meter)
    run.prepare()
    return run


def _plan_chain(chain: Chain, work: Session, options: PlanOptions) -> Estimate:
    """Plan the stages in their order: of each that a later one uses, a folder with the model that its recipe describes is made."""
    wanted = [*(options.stages or chain.names)]
    used = {name for stage in chain.stages for name in stage.uses if stage.name in wanted}
    for stage in reversed(chain.stages):  # what these use themselves
        used |= {*stage.uses} if stage.name in used else set()
    found: dict[str, Estimate] = {}
    with tempfile.TemporaryDirectory(prefix="tfkit-plan-") as folder:
        for stage in chain.stages:
            if stage.name not in used and stage.name not in wanted:
                continue
            work.listener.say(f"stage {stage.name}")
            source = stage.placed(chain.source.path, Path(folder))
            try:
                start = source.read().model.start if stage.fine_tunes else None
                run = _prepared(begin(source, (), start).decide, work, options)
            except TfkitError as error:
                raise of_stage(stage.name, error) from None
            if stage.name in wanted:
                found[stage.name] = _estimated(run, work, options)
            if stage.name in used:
                write_placeholder(Path(folder) / stage.name, run.recipe, run.data)
    return sum_of_stages(found)
