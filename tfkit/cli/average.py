"""tfkit average: the mean of a run's last checkpoints, as a model folder."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.errors import MachineError, ModelError, UsageError

if TYPE_CHECKING:
    from tfkit.hub.weights import Tensors

_SAME = ("config.json", "tokenizer.json", "tokenizer_config.json")  # in checkpoints of one model


def average(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The model folder to write; it must not be there yet.")],
    last: Annotated[int, typer.Option("--last", min=2, metavar="N", help="How many of the newest complete checkpoints.")] = 5,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Average the weights of a run's last checkpoints, as the 2017 Transformer was evaluated. --from and transformers open the result."""
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out}: is there already, and nothing is replaced: give another --out")
    from tfkit.engine.inputs import Inputs

    Inputs(models=(run / "checkpoints",)).refuse_folder(out, "--out")
    chosen = _last(run, last)
    facts = _facts_of_one_run(chosen)

    from tfkit.durable import comes_from_the_disk, with_retries, write_folder
    from tfkit.hub.averaging import mean_weights, weights_bytes

    with console.progress("averaging", weights_bytes(chosen), "bytes") as bar:
        tensors = mean_weights(chosen, bar.advance)
    try:
        with_retries(lambda: write_folder(out, lambda folder: _write(folder, chosen, tensors, facts)))
    except Exception as error:
        if isinstance(error, ModelError) or not comes_from_the_disk(error):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise MachineError(
            f"{out}: cannot be written ({reason}), and nothing is left there: mend the disk, or give another --out"
        ) from error
    names = [path.name for path in chosen]
    if json:
        console.json({"schema_version": 1, "run": str(run), "model": str(out), "checkpoints": names, "step": facts["step"]})
    else:
        console.result(f"{out}: the mean of {', '.join(names)}")


def _last(run: Path, last: int) -> list[Path]:
    """The newest complete checkpoints by rising step. Raises ModelError if there are fewer."""
    from tfkit.run.checkpoints import checkpoints

    if not (run / "checkpoints").is_dir():
        raise ModelError(f"{run}: is no run folder: there is no folder checkpoints in it")
    found = checkpoints(run / "checkpoints")
    if len(found) < last:
        there = (
            f"complete checkpoints here are {', '.join(path.name for path in found)}" if found else "there is no complete checkpoint here"
        )
        raise ModelError(
            f"{run}: --last {last} of its checkpoints, but {there}. A run keeps checkpoint.keep of them, one every checkpoint.every steps: "
            "raise it (also for a run that goes on with --resume), or average fewer"
        )
    return found[-last:]


def _facts_of_one_run(chosen: Sequence[Path]) -> dict[str, Any]:
    """What tfkit.json says of the newest, once every file of all is checked. Raises ModelError if they are damaged, or of several runs."""
    from tfkit.adapters import is_adapter
    from tfkit.hub.config_json import read_facts
    from tfkit.run.manifest import read_manifest, recorded_bytes, verify

    with console.progress("checking", sum(map(recorded_bytes, chosen)), "bytes") as bar:
        for path in chosen:
            if problems := verify(path, advance=bar.advance):
                raise ModelError(f"{problems[0]}; `tfkit verify` tells of all. Average other checkpoints, or restore the files")
    if adapter := next(filter(is_adapter, chosen), None):
        raise ModelError(
            f"{adapter}: holds updates, and the mean of their factors is not that of the weights: average checkpoints of a run with "
            "training.adapter.merge=true"
        )
    entries = [read_manifest(path) for path in chosen]
    facts = [read_facts(path) for path in chosen]
    for path, entry, fact in zip(chosen, entries, facts, strict=True):
        other = [name for name in _SAME if entry.get(name) != entries[-1].get(name)]
        if fact.get("run_id") != facts[-1].get("run_id"):
            other.append("the run_id in tfkit.json")
        if other:
            raise ModelError(
                f"{path}: is not of the same run as {chosen[-1].name}: {', '.join(other)} differ; average a run's own checkpoints"
            )
    return facts[-1]


def _write(folder: Path, chosen: Sequence[Path], tensors: "Tensors", facts: dict[str, Any]) -> None:
    """The newest checkpoint's files without its training state, the mean weights, and whose mean they are."""
    from tfkit.hub import content_hash
    from tfkit.hub.averaging import save_weights
    from tfkit.run import strict_json
    from tfkit.run.card import mean_card
    from tfkit.run.manifest import read_manifest, write_manifest

    newest = chosen[-1]
    for name in read_manifest(newest):
        if not name.startswith("training_state/") and ".safetensors" not in name and name != "tfkit.json":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(newest / name, folder / name)
    run_id = facts.get("run_id")
    parents = [{"role": "averaged", "path": str(path), "run_id": run_id, "sha256": content_hash(path)} for path in chosen]
    averaged = {"kind": "mean", "checkpoints": len(chosen)} | ({"of": facts["averaged"]} if "averaged" in facts else {})
    lineage = facts.get("lineage", {})
    lineage = lineage | {"parents": [*lineage.get("parents", []), *parents]}
    document = facts | {"averaged": averaged, "lineage": lineage}
    (folder / "tfkit.json").write_text(strict_json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if (newest / "README.md").is_file():
        card = mean_card((newest / "README.md").read_text(encoding="utf-8", errors="replace"), [path.name for path in chosen])
        (folder / "README.md").write_text(card, encoding="utf-8")
    save_weights(folder, tensors)
    write_manifest(folder)
