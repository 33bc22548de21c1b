"""Repeat the step that ended a run, after training from an earlier checkpoint, to find the first module whose numbers are not finite."""

from pathlib import Path
from typing import Any

import torch

from tfkit.alignment.user_code import CodePermission
from tfkit.engine.assembly.components import Components, assemble, first_model
from tfkit.engine.assembly.training_data import TrainingData, prepare_data
from tfkit.engine.inference.session import Session
from tfkit.engine.listener import Listener
from tfkit.errors import MachineError
from tfkit.recipe.schema.sections import Recipe
from tfkit.run.checkpoints import checkpoints, step_of
from tfkit.run.manifest import verify
from tfkit.training.device import pick_device, prepare_steps
from tfkit.training.replay import batch_sha256, find_first_bad, take_steps, weights_sha256


def replay_step(
    run: Path, recipe: Recipe, document: dict[str, Any], session: Session, code: CodePermission, device: str | None, threads: int | None
) -> dict[str, Any]:
    """Repeat the step that a replay file (`document`) describes, and return the document of --json.

    The field `first_bad` of the returned document says where the first number that is not finite is, or is None. No file of the run
    is changed. `code`: which reward functions may be run; `device` and `threads`: None for those of the run. Raises MachineError if this
    machine does not compute the same numbers as the run.
    """
    torch.set_num_threads(threads or document["threads"])
    place = pick_device(device or document["device"])
    data = prepare_data(recipe, place, session.listener, session.stop, session.meter, code)
    session.meter.phase("replay")
    with session.stop.at_once():
        components = _state_before(run, recipe, data, document, place, session.listener)
        batches = components.loader.step(components.progress.step)
        _check_same(document, weights_sha256(components.stepper), [batch_sha256(batch) for batch in batches])
        bad = find_first_bad(components.stepper, batches, document["step"])
    return {
        "schema_version": 1,
        **{name: document[name] for name in ("step", "loss", "grad_norm")},
        "first_bad": None if bad is None else {"module": bad.module, "in": bad.where, "micro_batch": bad.micro_batch},
        "rows": [batch["rows"] for batch in document["micro_batches"]],
    }


def _state_before(
    run: Path, recipe: Recipe, data: TrainingData, document: dict[str, Any], device: torch.device, listener: Listener
) -> Components:
    """Return the components in their state before the step, after training again from the newest intact earlier checkpoint or the start."""
    prepare_steps(device)
    model = first_model(recipe, data, listener)
    usable = [path for path in checkpoints(run / "checkpoints") if step_of(path) < document["step"] and not verify(path)]
    newest, size = usable[-1] if usable else None, len(document["micro_batches"][0]["rows"])
    components = assemble(recipe, data, model, device, size, listener)
    if newest is not None:
        components = components.continued_from(newest)
    listener.say(f"from {newest.name if newest is not None else 'the random weights of the start'} to step {document['step']}")
    take_steps(components.stepper, components.loader, components.schedule, components.plan, components.progress, document["step"] - 1)
    return components


def _check_same(document: dict[str, Any], weights: str, batches: list[str]) -> None:
    """Raise MachineError if the hash of the weights or of a micro-batch differs from the one that the run recorded in `document`."""
    wrong = []
    if batches != [batch["sha256"] for batch in document["micro_batches"]]:
        wrong.append("the rows of the step")
    if weights != document["weights_sha256"]:
        wrong.append("the weights before the step")
    if wrong:
        origin = f"torch {document['torch']}, {document['threads']} threads, {document['device']}, {document['precision']}"
        raise MachineError(
            f"step {document['step']} cannot be reproduced: {' and '.join(wrong)} are not those of the run ({origin}; here torch "
            f"{torch.__version__}, {torch.get_num_threads()} threads). Replay it on the machine of the run, with its data and its versions"
        )
