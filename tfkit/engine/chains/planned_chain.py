"""Estimate a run for `tfkit plan`, or all stages of a recipe and their sum. Data are prepared as for training; no run folder is made."""

import tempfile
import time
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import torch

from tfkit.engine.assembly.training_data import TrainingData
from tfkit.engine.chains.chain_plan import in_stage
from tfkit.engine.inference.session import Session
from tfkit.engine.planning.cluster import require_known_gpu, require_ranks, with_cluster
from tfkit.engine.planning.plan_request import PlanOptions, PlanRequest
from tfkit.engine.planning.probe_steps import probe_run, with_probe
from tfkit.engine.planning.run_forecaster import RunForecaster
from tfkit.engine.request.training_request import TrainingRequest, kind_of, require_trainable
from tfkit.engine.training_run.checkpointing import family_name
from tfkit.engine.training_run.estimate import Estimate
from tfkit.engine.training_run.run import Run
from tfkit.hub import save_model
from tfkit.hub.names import expected_shapes
from tfkit.hub.tensor_files import TensorFile
from tfkit.objectives.companion import PLACEHOLDER
from tfkit.recipe import Chain
from tfkit.recipe.schema.sections import Recipe
from tfkit.tokenizer.conversations import end_ids
from tfkit.training.device import pick_device

_SUMMED = ("tokens", "steps", "disk_bytes", "seconds", "energy_kwh", "emissions_g")  # fields of an estimate that are added over the stages


def make_plan(request: PlanRequest, session: Session, options: PlanOptions) -> Estimate:
    """Estimate the requested run or chain. Raises most errors that the training would raise before its first step."""
    require_known_gpu(options.gpu, options.probe, options.ranks)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if request.chain is not None:
        return _plan_chain(request.chain, session, options)
    return _plan_prepared(_prepare(request.training, session, options, session.meter.began), options)


def _plan_prepared(run: Run, options: PlanOptions) -> Estimate:
    """Return the estimate of a prepared run, corrected by a probe (a few real steps) and for other ranks or GPUs if requested."""
    plan = run.forecast(ahead=True)
    if options.probe:
        plan = with_probe(plan, run.recipe, probe_run(run, options.probe), run.device)
    if options.ranks > 1 or options.gpu is not None:
        plan = with_cluster(plan, run.recipe, run.data, options.ranks, options.gpu)
    return plan


def _prepare(request: TrainingRequest, session: Session, options: PlanOptions, began: float) -> Run:
    """Return the run of a request, with its data prepared. `began`: the monotonic time from which the run's seconds are counted."""
    with session.stop.at_once():
        decided = request.decide(session.listener)
    require_trainable(decided.recipe)
    require_ranks(decided.recipe, options.ranks)
    code = options.code.with_named(decided.recipe.objective.code_files.values(), session.listener.warn) if options.probe else None
    run = Run(decided.recipe, pick_device(options.device), session.listener, session.stop, session.meter, RunForecaster(), code=code)
    run.began = began
    is_here = options.gpu is None and options.ranks == 1
    # How many copies of the weights must fit here: as in a training (None); 0 for a planned GPU; else the fraction that a rank holds.
    copies = None if is_here else 0.0 if options.gpu is not None else 1 / decided.recipe.parallel.shard
    run.prepare(ranks=options.ranks, copies=copies)
    return run


def _plan_chain(chain: Chain, session: Session, options: PlanOptions) -> Estimate:
    """Plan the stages in order. For each stage whose model a later one uses, a placeholder of its checkpoint is written temporarily."""
    wanted = [*(options.stages or chain.names)]
    used = {name for stage in chain.stages for name in stage.uses if stage.name in wanted}
    for stage in reversed(chain.stages):  # add the stages whose models the used stages need
        used |= {*stage.uses} if stage.name in used else set()
    estimates: dict[str, Estimate] = {}
    with tempfile.TemporaryDirectory(prefix="tfkit-plan-") as folder:
        began = session.meter.began
        for stage in chain.stages:
            if stage.name not in used and stage.name not in wanted:
                continue
            session.listener.say(f"stage {stage.name}")
            source = stage.placed(chain.source.path, Path(folder))
            with in_stage(stage.name):
                request = TrainingRequest(kind_of(stage.recipe), source)
                request.check()
                run = _prepare(request, session, options, began)
            if stage.name in wanted:
                estimates[stage.name] = _plan_prepared(run, options)
            if stage.name in used:
                _write_placeholder(Path(folder) / stage.name, run.recipe, run.data)
            began = time.monotonic()
    return _sum_stages(estimates)


def _write_placeholder(folder: Path, recipe: Recipe, data: TrainingData) -> None:
    """Write a model folder that later stages read as the checkpoint of a planned stage. Its weights are zeros, in a sparse file."""
    folder.mkdir(parents=True)
    family = save_model(
        folder,
        data.config,
        None,
        data.tokenizer,
        family=family_name(recipe, data),
        end_ids=end_ids(data.tokenizer),
        labels=data.labels,
        problem_type=recipe.objective.problem_type,
        facts={"objective": recipe.objective.saved_kind, PLACEHOLDER: True},
        generation=data.start.described.generation if data.start is not None else None,
    )
    shapes = expected_shapes(family, data.config)
    layout = {name: (torch.float32, shape) for name, shape in shapes.items()}
    TensorFile(folder / "model.safetensors", layout, {"format": "pt"}).write_zeros()


def _sum_stages(stages: dict[str, Estimate]) -> Estimate:
    """Return the estimate of a chain: sums over the stages, but the largest memory, and the parameters of the last stage."""
    estimates = [*stages.values()]
    last = estimates[-1]
    full = [stage.full_power for stage in estimates if stage.full_power is not None]
    sums: dict[str, Any] = {name: reduce(add, (getattr(stage, name) for stage in estimates)) for name in _SUMMED}
    return replace(
        last,
        **sums,
        flops={name: sum(stage.flops.get(name, 0.0) for stage in estimates) for name in last.flops},
        memory_bytes=max(stage.memory_bytes for stage in estimates),
        basis=", ".join(dict.fromkeys(stage.basis for stage in estimates)),
        assumptions={name: _join_assumptions(stages, name) for name in last.assumptions},
        full_power=replace(full[0], hours=sum(one.hours for one in full), emissions_g=sum(one.emissions_g for one in full)),
        table_seconds={name: sum(stage.table_seconds.get(name, 0.0) for stage in estimates) for name in last.table_seconds},
        probe=None,
        rate_trial=None,
        no_rate_trial=None,
        cluster=None,
        stages=dict(stages),
    )


def _join_assumptions(stages: dict[str, Estimate], name: str) -> str:
    """Return how the number `name` was obtained: one text if all stages have the same, else the text of each stage."""
    texts = {stage: estimate.assumptions.get(name, "") for stage, estimate in stages.items()}
    return texts.popitem()[1] if len({*texts.values()}) == 1 else "; ".join(f"{stage}: {text}" for stage, text in texts.items())
