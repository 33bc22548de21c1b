"""Plan a run. Data are prepared as for the run; no run folder is made."""

from collections.abc import Callable

from tfkit.engine.inference.session import Session
from tfkit.engine.listener import Listener
from tfkit.engine.planning.cluster import copies_elsewhere, require_ranks, with_cluster
from tfkit.engine.planning.plan_request import PlanOptions
from tfkit.engine.planning.probe_steps import probe_run, with_probe
from tfkit.engine.planning.run_forecaster import RunForecaster
from tfkit.engine.request.training_request import require_trainable
from tfkit.engine.training_run.estimate import Estimate
from tfkit.engine.training_run.run import Run
from tfkit.recipe import ResolvedRecipe
from tfkit.training.device import pick_device


def plan_prepared(run: Run, work: Session, options: PlanOptions) -> Estimate:
    """Return the estimate of a prepared run, with a probe if one was requested."""
    plan = run.forecast(ahead=True)
    if options.probe:
        probe = probe_run(run.recipe, run.data, run.device, options.probe, work.listener, work.stop, work.meter)
        plan = with_probe(plan, run.recipe, probe, run.device)
    if options.ranks > 1 or options.gpu is not None:
        plan = with_cluster(plan, run.recipe, run.data, options.ranks, options.gpu)
    return plan


def prepare_plan(decide: Callable[[Listener], ResolvedRecipe], work: Session, options: PlanOptions, began: float) -> Run:
    """Return a run with its data prepared; `began`: the monotonic time at which its own command would have started."""
    with work.stop.at_once():
        decided = decide(work.listener)
    require_trainable(decided.recipe)
    require_ranks(decided.recipe, options.ranks)
    code = options.code.with_named(decided.recipe.objective.code_files.values(), work.listener.warn) if options.probe else None
    run = Run(decided.recipe, pick_device(options.device), work.listener, work.stop, work.meter, RunForecaster(), code=code)
    run.began = began
    is_here = options.gpu is None and options.ranks == 1
    copies = None if is_here else copies_elsewhere(decided.recipe, options.gpu)
    run.prepare(ranks=options.ranks, copies=copies)
    return run
