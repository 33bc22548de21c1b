"""tfkit replay: the step that ended a run, taken again, with the name of the first module that goes wrong."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.errors import MachineError, ModelError

if TYPE_CHECKING:
    from tfkit.engine.components import Components
    from tfkit.engine.training_data import TrainingData
    from tfkit.recipe.schema.sections import Recipe
    from tfkit.training.loop import Progress


def replay(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that ended with exit code 6.", show_default=False)],
    step: Annotated[int | None, typer.Option("--step", metavar="N", help="The step; the latest one that was written down.")] = None,
    no_verify: options.NoVerify = False,
    device: options.Device = None,
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Take the step that ended a run again, from the checkpoint before it, and name the first module that goes wrong.

    The run folder is only read. Ends with 5 if this machine does not compute the same as the run did.
    """
    from tfkit.cli.session import command_session
    from tfkit.recipe import read_recipe
    from tfkit.run.replay_file import read_replay
    from tfkit.training.replay import batch_sha256, find_first_bad, weights_sha256

    document = read_replay(run, step)
    if not (run / "recipe.yaml").is_file():
        raise ModelError(f"{run / 'recipe.yaml'}: missing, so the step cannot be taken again; restore the run folder")
    recipe = read_recipe(str(run / "recipe.yaml")).recipe
    with command_session("replay", recipe.carbon) as work:
        import torch

        from tfkit.engine.training_data import prepare_data

        torch.set_num_threads(threads or document["threads"])
        data = prepare_data(recipe, console, work.stop, work.meter)
        work.meter.phase("replay")
        with work.stop.at_once():
            parts, before = _state_before(run, recipe, data, document, device)
            batches = parts.loader.step(before.step)
            _check_same(document, weights_sha256(parts.weights.master), [batch_sha256(batch) for batch in batches])
            finding = find_first_bad(parts.stepper, batches, document["step"])
    result = {
        "schema_version": 1,
        "step": document["step"],
        "loss": document["loss"],
        "grad_norm": document["grad_norm"],
        "first_bad": None if finding is None else {"module": finding.module, "in": finding.where, "micro_batch": finding.micro_batch},
        "rows": [batch["rows"] for batch in document["micro_batches"]],
    }
    console.json(result) if json else console.result(_told(result))


def _state_before(
    run: Path, recipe: "Recipe", data: "TrainingData", document: dict[str, Any], device: str | None
) -> "tuple[Components, Progress]":
    """The parts as they were before the step: from the newest good checkpoint, through the steps since then."""
    from tfkit.engine.components import assemble, first_model, restore
    from tfkit.run.checkpoints import checkpoints, step_of
    from tfkit.run.manifest import verify
    from tfkit.training.checkpoint import load_training_state
    from tfkit.training.device import keep_freed_memory, make_deterministic, pick_device
    from tfkit.training.loop import Progress, take_steps

    place = pick_device(device or document["device"])
    make_deterministic(place)
    keep_freed_memory()
    model = first_model(recipe, data, console)
    parts = assemble(recipe, data, model, place, len(document["micro_batches"][0]["rows"]))
    usable = [path for path in checkpoints(run / "checkpoints") if step_of(path) < document["step"] and not verify(path)]
    tensors, state = load_training_state(usable[-1]) if usable else ({}, {})
    progress = restore(parts, usable[-1], tensors, state) if usable else Progress()
    console.say(f"from {usable[-1].name if usable else 'the random weights of the start'} to step {document['step']}")
    take_steps(parts.stepper, parts.loader, parts.schedule, parts.plan, progress, document["step"] - 1)
    return parts, progress


def _check_same(document: dict[str, Any], weights: str, batches: list[str]) -> None:
    """Raise MachineError, with what is known of the difference, unless weights and batches are those of the run."""
    import torch

    wrong = []
    if batches != [batch["sha256"] for batch in document["micro_batches"]]:
        wrong.append("the rows of the step")
    if weights != document["weights_sha256"]:
        wrong.append("the weights before it")
    if wrong:
        there = f"torch {document['torch']}, {document['threads']} threads, {document['device']}, {document['precision']}"
        raise MachineError(
            f"step {document['step']} cannot be reproduced: {' and '.join(wrong)} are not those of the run ({there}; here torch "
            f"{torch.__version__}, {torch.get_num_threads()} threads). Replay it on the machine of the run, with its data and its versions"
        )


def _told(result: dict[str, Any]) -> str:
    loss, norm, bad = (_number(result, "loss"), _number(result, "grad_norm"), result["first_bad"])
    lines = [f"step         {result['step']}: loss {loss}, gradient's norm {norm}; reproduced bit for bit"]
    if bad is None:
        lines.append("first bad    none: every module gives finite numbers, and so does the loss")
    elif bad["in"] == "weights":
        lines.append(f"first bad    the weight {bad['module']}, already before the step")
    else:
        what = {"forward": "the output of", "backward": "the gradient that comes back to", "loss": "the loss itself, in"}[bad["in"]]
        lines.append(f"first bad    {what} {bad['module']}, micro-batch {bad['micro_batch'] + 1} of {len(result['rows'])}")
        lines.append(f"its rows     {', '.join(map(str, result['rows'][bad['micro_batch']]))}")
    return "\n".join(lines)


def _number(result: dict[str, Any], name: str) -> str:
    return "not a number" if result[name] is None else f"{result[name]:.6g}"
