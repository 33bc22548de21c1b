"""The command tfkit plan, which estimates the resources of a run before its first step."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfkit.cli import options
from tfkit.cli.results import align_facts, show
from tfkit.engine.request.gate import failed_gates, judge, plan_gates, plan_metrics
from tfkit.units import format_bytes, format_count, format_energy, format_mass, format_seconds

if TYPE_CHECKING:
    from tfkit.engine.training_run.estimate import Estimate, Range

EXAMPLES = (
    "tfkit plan gpt2-stdlib",
    "tfkit plan gpt2-stdlib --probe 10",
    'tfkit plan gpt2-stdlib training.steps=500 --fail-if "emissions_g > 50" --json',
    "tfkit plan --from hub:sentence-transformers/all-MiniLM-L6-v2 --data reviews.csv",
)

_MIN_TRAFFIC = 0.001  # collective operations with a smaller fraction of the traffic are not shown
_PARTS_OF_STEPS = ("attention", "head")  # parts of the FLOPs that `forward` and `backward` already include


def plan(
    recipe: options.OptionalRecipe = None,
    overrides: options.Overrides = None,
    *,
    tuned: options.Tuned,
    fail_if: options.PlannedFailIf = None,
    stages: options.Stages = None,
    probe: Annotated[int, typer.Option(min=0, max=10_000, metavar="N", help="Measure N real steps.")] = 0,
    ranks: Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="Plan for N ranks.")] = 1,
    gpu: Annotated[str | None, typer.Option(metavar="NAME", help="Plan for h100, a100, l4 or mi300x, one per rank.")] = None,
    allow_code: options.AllowCode = False,
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
    from tfkit.carbon import Footprint
    from tfkit.cli.session import command_session
    from tfkit.engine.planning.plan_request import PlanOptions, check_plan_request
    from tfkit.engine.request.evaluation_settings import CodePermission

    request = tuned.request_of("plan", recipe, overrides)
    selected = options.stage_names(stages)
    planned = check_plan_request(request, selected)
    gates = plan_gates(fail_if or (), selected or (planned.chain.names if planned.chain is not None else ()))
    with command_session("plan", planned.carbon) as session:
        from tfkit.engine.chains.planned_chain import make_plan

        code = CodePermission(every_file=allow_code)
        estimate = make_plan(planned, session, PlanOptions(device, threads, selected, probe, ranks, gpu, code))
    used = Footprint.from_reading(session.own(session.meter.stop()))
    document = estimate.to_dict() | {"plan_energy_kwh": used.energy_kwh, "plan_emissions_g": used.emissions_g}
    document |= {"carbon_status": used.carbon_status, "gates": judge(gates, plan_metrics(document))}
    error = failed_gates(document["gates"])
    show(document, lambda _: "\n".join(lines(estimate)), error, as_json=json)
    if error is not None:
        raise error


def lines(plan: "Estimate") -> list[str]:
    """Return a plan as a table; for a recipe with stages, a table for each stage and one for all together, each below a heading."""
    tables: list[str] = []
    for name, stage in plan.stages.items():
        tables += [f"stage {name}", _table(stage), ""]
    return [*tables, *(["all stages"] if plan.stages else []), _table(plan)]


def _table(plan: "Estimate") -> str:
    active = f"{plan.active_parameters:,} compute each token, and " if plan.active_parameters < plan.parameters else ""
    batches = "" if plan.stages else f" in micro-batches of {plan.micro_batch_size:,} rows"
    rows = {
        "parameters": f"{plan.parameters:,}, of which {active}{plan.trained_parameters:,} are trained",
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
        rows |= _rank_rows(cluster)
    if plan.probe is not None:
        energy = format_energy(1000 * plan.probe["energy_kwh"]) if plan.probe["energy_kwh"] is not None else "energy not measured"
        rows["probe"] = f"{plan.probe['steps']:,} real steps in {plan.probe['seconds']:.3g} s, {energy}"
    if (full := plan.full_power) is not None:
        power = f"{full.watts:g} W ({full.hardware}) at full power for {format_seconds(3600 * full.hours)}"
        rows["ML CO2 Impact"] = f"{format_mass(full.emissions_g)} CO2e: {power}"
    return align_facts(rows)


def _rank_rows(cluster: dict[str, Any]) -> dict[str, str]:
    """Return the table rows about ranks: memory and traffic for each layout of the weights and, for the planned layout, their parts."""
    layout, units = cluster["layout"], cluster["gathered_units"]
    fits = "" if cluster["fits"] else ": DOES NOT FIT the memory"
    memory, traffic = cluster["memory_bytes"], cluster["traffic_bytes_per_step"]
    rows = {"ranks": f"{cluster['ranks']:,} of {cluster['rows_per_rank']:,} rows each, {layout}{fits}"}
    rows |= {f"  {name}": f"{format_bytes(memory[name])} per rank, which sends {format_bytes(traffic[name])} per step" for name in memory}
    tensors = {name: size for name, size in cluster["tensor_bytes"][layout].items() if size and name != "peak"}
    rows["  memory"] = ", ".join(f"{name} {format_bytes(size)}" for name, size in tensors.items())
    kinds = {kind: size for kind, size in cluster["sent_bytes"][layout].items() if size >= _MIN_TRAFFIC * traffic[layout]}
    rows["  traffic"] = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in kinds.items()) or "none"
    if layout == "sharded":
        rows["  gathered"] = (
            f"{units['blocks']:,} blocks one at a time, of at most {format_bytes(units['block_bytes'])}; embeddings, last norm and head, "
            f"{format_bytes(units['rest_bytes'])}, for a forward and its backward pass"
        )
    return rows


def _shares(flops: dict[str, float]) -> str:
    """Return as text each part's fraction of all FLOPs, largest first, and the fractions of attention and head in forward and backward."""
    total = flops["total"] or 1.0
    parts = sorted(((value, name) for name, value in flops.items() if name not in ("total", *_PARTS_OF_STEPS) and value), reverse=True)
    shown = ", ".join(f"{name} {value / total:.0%}" for value, name in parts)
    steps = (flops["forward"] + flops["backward"]) or 1.0
    return f"{shown}; of the steps attention is {flops['attention'] / steps:.0%}, the head {flops['head'] / steps:.0%}"


def _range(value: "Range", text: Callable[[float], str]) -> str:
    return f"{text(value.likely)} ({text(value.low)} to {text(value.high)})"
