"""tfkit plan: what a run will take, before its first step."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfkit.cli import options
from tfkit.cli.aligned import facts
from tfkit.cli.results import show_judged
from tfkit.engine.gate import failed_gates, judge, plan_gates, plan_metrics
from tfkit.units import format_bytes, format_count, format_energy, format_mass, format_seconds

if TYPE_CHECKING:
    from tfkit.engine.planning.estimate import Estimate, Range

_LEAST_SHOWN = 0.001  # of the traffic: beside the weights' and the gradients' there are a few numbers
_OF_STEPS = ("attention", "head")  # parts of forward and backward


def plan(
    recipe: options.OptionalRecipe = None,
    overrides: options.Overrides = None,
    checkpoint: options.Start = None,
    data: options.TrainingRows = None,
    fail_if: options.FailIf = None,
    stages: options.Stages = None,
    probe: Annotated[int, typer.Option("--probe", min=0, max=10_000, metavar="N", help="Measure N real steps.")] = 0,
    ranks: Annotated[int, typer.Option("--ranks", min=1, max=100_000, metavar="N", help="Plan for N ranks.")] = 1,
    gpu: Annotated[str | None, typer.Option("--gpu", metavar="NAME", help="Plan for h100, a100, l4 or mi300x, one per rank.")] = None,
    no_verify: options.NoVerify = False,
    device: options.Device = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Estimate a training without starting it: parameters, FLOPs, memory, disk, time, energy and CO2, and how each number was obtained.

    With --probe the first steps are measured, and their weights discarded. Text is tokenized as in training, and is kept in the cache;
    no run folder is made. For a recipe with stages, each stage and their sum are planned. Without a recipe, as in `tfkit finetune`, the
    task is recognised by the columns of the data and the kind of the model.
    """
    from tfkit.cli.session import command_session
    from tfkit.cli.train import tuned_recipe
    from tfkit.engine.planning.plan_request import PlanOptions, to_plan
    from tfkit.engine.session import energy_fields

    source, words, _ = tuned_recipe("plan", recipe, overrides, checkpoint, data, needed=True)
    part = options.stage_names(stages)
    planned = to_plan(source, words, checkpoint, part)
    gates = plan_gates(fail_if or (), part or (planned.chain.names if planned.chain is not None else ()))
    with command_session("plan", planned.carbon) as work:
        from tfkit.engine.planning.planner import make_plan

        estimate = make_plan(planned, work, PlanOptions(device, threads, part, probe, ranks, gpu))
    own = energy_fields(work.own(work.meter.stop()))
    document = estimate.to_dict() | {f"plan_{name}": own[name] for name in ("energy_kwh", "emissions_g")}
    document |= {"carbon_status": own["carbon_status"], "gates": judge(gates, plan_metrics(document))}
    error = failed_gates(document["gates"])
    show_judged(document, "\n".join(lines(estimate)), error, as_json=json)
    if error is not None:
        raise error


def lines(plan: "Estimate") -> list[str]:
    """Return a plan for people: a table, of a chain one for each stage and one for all."""
    found: list[str] = []
    for name, one in plan.stages.items():
        found += [f"stage {name}", _table(one), ""]
    return [*found, *(["all stages"] if plan.stages else []), _table(plan)]


def _table(plan: "Estimate") -> str:
    batches = "" if plan.stages else f" in micro-batches of {plan.micro_batch_size:,} rows"
    rows = {
        "parameters": f"{plan.parameters:,}, of which {plan.trained_parameters:,} are trained",
        "steps": f"{plan.steps:,}{batches}, {format_count(plan.tokens)} tokens",
        "FLOPs": f"{plan.flops['total']:.3g}: {_shares(plan.flops)}",
        **({"trial": plan.rate_trial.describe(plan.flops["total"])} if plan.rate_trial is not None else {}),
        **({"no trial": f"of learning rates: {plan.no_rate_trial}"} if plan.no_rate_trial is not None else {}),
        "memory": f"{format_bytes(plan.memory_bytes)} at the peak",
        "disk": f"{format_bytes(plan.disk_bytes)} of checkpoints",
        "time": _range(plan.seconds, format_seconds),
        "energy": _range(plan.energy_kwh, lambda kwh: format_energy(1000 * kwh)),
        "emissions": f"{_range(plan.emissions_g, lambda grams: f'{format_mass(grams)} CO2e')}; {plan.place}",
        "basis": plan.basis,
        **{f"  {name}": text for name, text in plan.assumptions.items()},
    }
    if (cluster := plan.cluster) is not None:
        rows |= _of_ranks(cluster)
    if plan.probe is not None:
        took = format_energy(1000 * plan.probe["energy_kwh"]) if plan.probe["energy_kwh"] is not None else "energy not measured"
        rows["probe"] = f"{plan.probe['steps']:,} real steps in {plan.probe['seconds']:.3g} s, {took}"
    if (full := plan.full_power) is not None:
        power = f"{full.watts:g} W ({full.hardware}) at full power for {format_seconds(3600 * full.hours)}"
        rows["ML CO2 Impact"] = f"{format_mass(full.emissions_g)} CO2e: {power}"
    return facts(rows)


def _of_ranks(cluster: dict[str, Any]) -> dict[str, str]:
    """Return the rows on the ranks: memory and traffic in both layouts, and what they are in the one that is planned."""
    layout, units = cluster["layout"], cluster["gathered_units"]
    fits = "" if cluster["fits"] else ": DOES NOT FIT the memory"
    held, sent = cluster["memory_bytes"], cluster["traffic_bytes_per_step"]
    rows = {"ranks": f"{cluster['ranks']:,} of {cluster['rows_per_rank']:,} rows each, {layout}{fits}"}
    rows |= {f"  {name}": f"{format_bytes(held[name])} and {format_bytes(sent[name])} sent in a step, of each rank" for name in held}
    tensors = {name: size for name, size in cluster["tensor_bytes"][layout].items() if size and name != "peak"}
    rows["  memory"] = ", ".join(f"{name} {format_bytes(size)}" for name, size in tensors.items())
    kinds = {kind: size for kind, size in cluster["sent_bytes"][layout].items() if size >= _LEAST_SHOWN * sent[layout]}
    rows["  traffic"] = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in kinds.items()) or "none"
    if layout == "sharded":
        rows["  gathered"] = (
            f"{units['blocks']:,} blocks one at a time, of at most {format_bytes(units['block_bytes'])}; embeddings, last norm and head, "
            f"{format_bytes(units['rest_bytes'])}, for a forward and its backward pass"
        )
    return rows


def _shares(flops: dict[str, float]) -> str:
    """Return the parts from the largest on, those of the steps last."""
    total = flops["total"] or 1.0
    parts = sorted(((value, name) for name, value in flops.items() if name not in ("total", *_OF_STEPS) and value), reverse=True)
    shown = ", ".join(f"{name} {value / total:.0%}" for value, name in parts)
    steps = (flops["forward"] + flops["backward"]) or 1.0
    return f"{shown}; of the steps attention is {flops['attention'] / steps:.0%}, the head {flops['head'] / steps:.0%}"


def _range(value: "Range", shown: Any) -> str:
    return f"{shown(value.likely)} ({shown(value.low)} to {shown(value.high)})"
