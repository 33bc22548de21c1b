"""The command tfkit replay, which repeats the step that ended a run, and names the first module whose numbers are not finite."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tfkit.cli import options
from tfkit.cli.results import show

EXAMPLES = ("tfkit replay runs/demo",)


def replay(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that ended with exit code 6.")],
    step: Annotated[int | None, typer.Option(metavar="N", help="The step; by default the latest recorded one.")] = None,
    allow_code: options.AllowCode = False,
    no_verify: options.NoVerify = False,
    device: options.Device = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Repeat the step that ended a run, from the checkpoint before it, and name the first module that goes wrong.

    The run folder is only read. The command ends with exit code 5 if this machine does not compute the same as the run did.
    """
    from tfkit.cli.session import command_session
    from tfkit.engine.request.evaluation_settings import CodePermission
    from tfkit.recipe import read_run_recipe
    from tfkit.run.replay_file import read_replay

    document = read_replay(run, step)
    recipe = read_run_recipe(run).recipe
    code = CodePermission(every_file=allow_code)
    code.require(recipe.objective.code_files)
    with command_session("replay", recipe.carbon) as session:
        from tfkit.engine.tools.replaying import replay_step

        result = replay_step(run, recipe, document, session, code, device, threads)
    show(result, _table, as_json=json)


def _table(result: dict[str, Any]) -> str:
    loss, norm = ("not a number" if result[name] is None else f"{result[name]:.6g}" for name in ("loss", "grad_norm"))
    bad = result["first_bad"]
    lines = [f"step         {result['step']}: loss {loss}, gradient's norm {norm}; reproduced bit for bit"]
    if bad is None:
        lines.append("first bad    none: every module and the loss are finite")
    elif bad["in"] == "weights":
        lines.append(f"first bad    the weight {bad['module']}, even before the step")
    else:
        what = {"forward": "the output of", "backward": "the gradient that comes back to", "loss": "the loss itself, in"}[bad["in"]]
        lines.append(f"first bad    {what} {bad['module']}, micro-batch {bad['micro_batch'] + 1} of {len(result['rows'])}")
        lines.append(f"its rows     {', '.join(map(str, result['rows'][bad['micro_batch']]))}")
    return "\n".join(lines)
