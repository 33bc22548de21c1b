"""A plan of a training, whose data are prepared as for the run; no run folder is made. Of a chain each stage is planned, and the sum."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tfkit.engine.beginning import Decided, require_trainable
from tfkit.engine.listener import Listener
from tfkit.engine.many_runs.chain_plan import of_stage
from tfkit.engine.planning.cluster import require_known_gpu, require_ranks, with_cluster
from tfkit.engine.planning.estimate import Estimate, sum_of_stages
from tfkit.engine.planning.placeholder_model import write_placeholder
from tfkit.engine.planning.plan_request import Planned, PlanOptions, begin
from tfkit.engine.planning.trial_steps import take_trial, with_trial
from tfkit.engine.run import Run
from tfkit.engine.session import Session
from tfkit.errors import TfkitError
from tfkit.recipe import Chain
from tfkit.training.device import pick_device


def make_plan(planned: Planned, work: Session, options: PlanOptions) -> Estimate:
    """Estimate the run, or every stage and their sum. Raises what a training would raise before its first step."""
    require_known_gpu(options.gpu, options.probe, options.ranks)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if planned.chain is not None:
        return _plan_chain(planned.chain, work, options)
    assert planned.beginning is not None
    return _estimated(_prepared(planned.beginning.decide, work, options, work.meter.began), work, options)


def _estimated(run: Run, work: Session, options: PlanOptions) -> Estimate:
    """Return the estimate of a prepared run, after real steps where they are asked for."""
    plan = run.planned
    if options.probe:
        trial = take_trial(run.recipe, run.data, run.device, options.probe, work.listener, work.stop, work.meter)
        plan = with_trial(plan, run.recipe, trial, run.device)
    if options.ranks > 1 or options.gpu is not None:
        plan = with_cluster(plan, run.recipe, run.data, options.ranks, options.gpu)
    return plan


def _prepared(decide: Callable[[Listener], Decided], work: Session, options: PlanOptions, began: float) -> Run:
    """Return a run whose data are prepared; `began`: the moment from which its own command would count."""
    with work.stop.at_once():
        decided = decide(work.listener)
    require_trainable(decided.recipe)
    require_ranks(decided.recipe, options.ranks)
    run = Run(decided.recipe, pick_device(options.device), work.listener, work.stop, work.meter)
    run.began = began
    run.prepare(ahead=True)
    return run


def _plan_chain(chain: Chain, work: Session, options: PlanOptions) -> Estimate:
    """Plan the stages in their order: of each that a later one uses, a folder with the model that its recipe describes is made."""
    wanted = [*(options.stages or chain.names)]
    used = {name for stage in chain.stages for name in stage.uses if stage.name in wanted}
    for stage in reversed(chain.stages):  # what these use themselves
        used |= {*stage.uses} if stage.name in used else set()
    found: dict[str, Estimate] = {}
    with tempfile.TemporaryDirectory(prefix="tfkit-plan-") as folder:
        began = work.meter.began
        for stage in chain.stages:
            if stage.name not in used and stage.name not in wanted:
                continue
            work.listener.say(f"stage {stage.name}")
            source = stage.placed(chain.source.path, Path(folder))
            try:
                start = source.read().model.start if stage.fine_tunes else None
                run = _prepared(begin(source, (), start).decide, work, options, began)
            except TfkitError as error:
                raise of_stage(stage.name, error) from None
            if stage.name in wanted:
                found[stage.name] = _estimated(run, work, options)
            if stage.name in used:
                write_placeholder(Path(folder) / stage.name, run.recipe, run.data)
            began = time.monotonic()
    return sum_of_stages(found)
