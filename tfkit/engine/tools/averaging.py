"""Choose checkpoints of a run, and write a model folder with the mean of their weights. Choosing them does not import torch."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit.durable import is_os_error, with_retries, write_folder
from tfkit.engine.listener import Listener
from tfkit.engine.request.inputs import Inputs
from tfkit.engine.request.rank_checks import require_count
from tfkit.errors import MachineError, ModelError, TfkitError, UsageError, argument
from tfkit.recipe import read_recipe
from tfkit.recipe.schema.carbon_section import CarbonSection
from tfkit.run.card import mean_card
from tfkit.run.checkpoints import checkpoints
from tfkit.run.manifest import read_manifest, recorded_bytes, verify, write_manifest
from tfkit.run.run_json import member_folders
from tfkit.run.tfkit_json import NAME, read_tfkit_json, write_tfkit_json

if TYPE_CHECKING:
    from tfkit.hub.weights import Tensors

_SAME = ("config.json", "tokenizer.json", "tokenizer_config.json")  # files that are equal in all checkpoints of a run
_SHIFT = "reward_shift"  # the field of tfkit.json with the number that is subtracted from a reward model's scores


@dataclass(frozen=True)
class Averaged:
    """The checkpoints whose mean was written."""

    checkpoints: list[str]  # names, oldest first
    step: int  # the training step of the newest checkpoint
    reward_shift: float | None  # the mean shift of a reward model's scores; None for other models


def choose_checkpoints(run: Path, out: Path, last: int) -> list[Path]:
    """Return the newest `last` checkpoints of a run, the oldest of them first.

    Raises UsageError if `out`, the model folder to write, exists or is in a run or model folder, or if `last` is less than 1; ModelError
    if the run has fewer complete checkpoints.
    """
    require_count("last", last)
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out}: already exists and is never overwritten; give another {argument('out')}")
    Inputs(models=(run / "checkpoints",)).refuse_output(out, argument("out"))
    if not (run / "checkpoints").is_dir():
        if members := member_folders(run):
            raise ModelError(f"{run}: has no checkpoints of its own; name one of its runs: {', '.join(map(str, members.values()))}")
        problem = "has no checkpoints yet" if (run / "run.json").exists() else "is not a run folder: it has no folder checkpoints"
        raise ModelError(f"{run}: {problem}")
    saved = checkpoints(run / "checkpoints")
    if len(saved) < last:
        names = ", ".join(path.name for path in saved)
        kept = f"complete checkpoints here are {names}" if saved else "there is no complete checkpoint here"
        raise ModelError(
            f"{run}: {argument('last', last)} of its checkpoints, but {kept}. Average fewer, or raise checkpoint.keep, the number of "
            f"checkpoints that a run keeps: that is also possible for a run that is continued with {argument('resume', True)}"
        )
    return saved[-last:]


def carbon_of(run: Path) -> CarbonSection:
    """Return the section `carbon` of the run's recipe, for metering the averaging; the defaults if the recipe cannot be read."""
    try:
        return read_recipe(str(run / "recipe.yaml")).recipe.carbon
    except TfkitError:
        return CarbonSection()


def average_checkpoints(chosen: Sequence[Path], out: Path, listener: Listener) -> Averaged:
    """Write the mean of the weights of the `chosen` checkpoints to the model folder `out`.

    Raises ModelError for checkpoints that are damaged, LoRA adapters or of different runs; MachineError if `out` cannot be written.
    """
    facts = _facts_of_one_run(chosen, listener)

    from tfkit.hub.weights import mean_weights, weights_bytes

    with listener.progress("averaging", weights_bytes(chosen), "bytes") as bar:
        tensors = mean_weights(chosen, bar.advance)
    try:
        with_retries(lambda: write_folder(out, lambda folder: _write(folder, chosen, tensors, facts)))
    except Exception as error:
        if isinstance(error, ModelError) or not is_os_error(error):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise MachineError(
            f"{out}: cannot be written ({reason}), and nothing is left there: check the disk, or give another {argument('out')}"
        ) from error
    return Averaged([path.name for path in chosen], facts["step"], facts.get(_SHIFT))


def _facts_of_one_run(chosen: Sequence[Path], listener: Listener) -> dict[str, Any]:
    """Return the fields of tfkit.json of the newest checkpoint, after verifying the files of all checkpoints.

    The shift of a reward model's scores becomes the mean of the checkpoints' shifts, because to first order mean weights give mean scores,
    and an exact shift would need the training data. Raises ModelError for checkpoints that are damaged, LoRA adapters or of different runs.
    """
    from tfkit.adapters import is_adapter
    from tfkit.objectives.reward import read_shift

    with listener.progress("checking", sum(map(recorded_bytes, chosen)), "bytes") as bar:
        for path in chosen:
            if problems := verify(path, advance=bar.advance):
                raise ModelError(f"{problems[0]}; `tfkit verify` lists all. Average other checkpoints, or restore the files")
    if adapter := next(filter(is_adapter, chosen), None):
        raise ModelError(
            f"{adapter}: holds LoRA updates, and the mean of their factors is not that of the weights: average checkpoints of a run with "
            "training.adapter.merge=true"
        )
    entries = [read_manifest(path) for path in chosen]
    facts = [dict(read_tfkit_json(path).fields) for path in chosen]
    for path, entry, fact in zip(chosen, entries, facts, strict=True):
        other = [name for name in _SAME if entry.get(name) != entries[-1].get(name)]
        if fact.get("run_id") != facts[-1].get("run_id"):
            other.append("the run_id in tfkit.json")
        if other:
            raise ModelError(
                f"{path}: is not of the same run as {chosen[-1].name}: {', '.join(other)} differ; average a run's own checkpoints"
            )
    if all(_SHIFT in fact for fact in facts):
        facts[-1][_SHIFT] = sum(read_shift(fact, str(path)) for path, fact in zip(chosen, facts, strict=True)) / len(facts)
    return facts[-1]


def _write(folder: Path, chosen: Sequence[Path], tensors: "Tensors", facts: dict[str, Any]) -> None:
    """Write the mean weights, a model card and the list of checkpoints; copy the newest one's other files, except its training state."""
    from tfkit.hub import content_hash
    from tfkit.hub.tensor_files import write_model_tensors

    newest = chosen[-1]
    for name in read_manifest(newest):
        if not name.startswith("training_state/") and ".safetensors" not in name and name != NAME:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(newest / name, folder / name)
    run_id = facts.get("run_id")
    parents = [{"role": "averaged", "path": str(path), "run_id": run_id, "sha256": content_hash(path)} for path in chosen]
    averaged = {"kind": "mean", "checkpoints": len(chosen)} | ({"of": facts["averaged"]} if "averaged" in facts else {})
    lineage = facts.get("lineage", {})
    lineage = lineage | {"parents": [*lineage.get("parents", []), *parents]}
    write_tfkit_json(folder, facts | {"averaged": averaged, "lineage": lineage})
    if (newest / "README.md").is_file():
        card = mean_card((newest / "README.md").read_text(encoding="utf-8", errors="replace"), [path.name for path in chosen])
        (folder / "README.md").write_text(card, encoding="utf-8")
    write_model_tensors(folder, {name: tensor.shape for name, tensor in tensors.items()}, tensors.items())
    write_manifest(folder)
