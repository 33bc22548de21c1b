"""Finding the model folder of a path, which may be a checkpoint, a run folder, a Hugging Face model folder or a repository of the Hub. Also
the hash of a model, and the id of the run that trained it.
"""

import hashlib
import os
import shlex
import warnings
from pathlib import Path

from tfkit.errors import ModelError, first_line, path_argument
from tfkit.network import fetch, is_offline
from tfkit.recipe.bundled import training_command
from tfkit.run import strict_json
from tfkit.run.best_json import best_checkpoint, read_best
from tfkit.run.checkpoints import newest_checkpoint, step_folders, step_of
from tfkit.run.manifest import Identity, identity_of, is_settled, refuse_later_version
from tfkit.run.run_json import known_of, read_run_json, stage_folders, trial_folders
from tfkit.run.tfkit_json import read_tfkit_json
from tfkit.run.verified import find_named, verified

ADAPTER = "adapter_config.json"  # a file in the folder of an adapter, in the format of the peft library
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_known: dict[tuple[tuple[str, Identity], ...], str] = {}  # results of `content_hash`, by names and identities (inode, size, times) of files


def find_checkpoint(path: str | Path) -> Path:
    """Return the model folder of a path: the path itself, a run folder's best or else newest checkpoint, or the downloaded repository for
    `hub:org/name@revision`. For a recipe with stages (trainings in sequence), it is the last stage's; for a sweep, the best trial's. The
    path may begin with ~, the home folder. Raise ModelError if there is no model folder.
    """
    if str(path).startswith("hub:"):
        return _download(str(path)[4:])
    try:
        return _find_folder(Path(os.path.expanduser(path)))  # unlike Path.expanduser, without an error for an unknown user
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None


def unread_format(path: Path) -> str | None:
    """Return the error message for a file in a format that tfkit never reads (pickle, GGUF), with the remedy; None for any other file."""
    if path.suffix == ".gguf":
        classes, source = "AutoModelForCausalLM and AutoTokenizer", f'"{path.parent}", gguf_file="{path.name}"'
        return (
            f"{path}: a GGUF file, which tfkit writes, but does not read: convert it to safetensors, for example with transformers: "
            f'{classes}, each .from_pretrained({source}).save_pretrained("NEW")'
        )
    if path.suffix not in _PICKLES:
        return None
    return (
        f"{path}: is a pickle, which can run code when it is opened, so tfkit never opens it: if you trust it, convert it to safetensors, "
        f'for example with transformers: {_class_of(path.parent)}.from_pretrained("OLD").save_pretrained("NEW", safe_serialization=True)'
    )


def _class_of(folder: Path) -> str:
    """Return the class of transformers that a folder's config.json names; AutoModel if it names none."""
    try:
        name = strict_json.loads((folder / "config.json").read_bytes())["architectures"][0]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return "AutoModel"
    return name if isinstance(name, str) and name.isidentifier() and name.isascii() else "AutoModel"


def _find_folder(folder: Path) -> Path:
    if (folder / "config.json").is_file() or (folder / ADAPTER).is_file():
        return folder
    if stages := stage_folders(folder):
        return _last_stage(folder, stages)
    if trials := trial_folders(folder):
        if (trial := trials.get(known_of(folder).best_trial or "")) is None:
            raise ModelError(f"{folder}: no trial of this sweep is finished; name one of them, such as {next(iter(trials.values()))}")
        return _find_folder(trial)
    if (folder / "checkpoints").is_dir() or (folder / "run.json").is_file():
        root = folder / "checkpoints"
        for path in step_folders(root):
            refuse_later_version(path)
        best, chosen = read_best(root), best_checkpoint(root) or newest_checkpoint(root)
        if chosen is None:
            raise ModelError(f"{folder}: this run {_describe_state(folder)}, and has no complete checkpoint yet; give another folder")
        newest = step_folders(root)[-1]
        if best is not None and step_of(chosen) != best.step:
            warnings.warn(f"{folder}: its best checkpoint, of step {best.step}, is not complete here; {chosen.name} is used", stacklevel=1)
        elif best is None and chosen != newest:
            warnings.warn(f"{folder}: its newest checkpoint, {newest.name}, is not complete; {chosen.name} is used", stacklevel=1)
        return chosen
    if not folder.exists():
        is_hub_name = len(folder.parts) == 2 and not folder.parent.exists()
        remedy = "give a checkpoint, a run folder, or a Hugging Face model folder" + (
            f"; on the Hub it is hub:{folder}" if is_hub_name else ""
        )
        command = training_command(folder)
        raise ModelError(f"{folder}: there is no such folder; {f'make it with `{command}`' if command else remedy}")
    if folder.is_file():
        raise ModelError(unread_format(folder) or f"{folder}: a file; give the folder that holds it, with its config.json")
    if files := sorted(folder.glob("*.gguf")):
        raise ModelError(str(unread_format(files[0])))
    # The path may contain model folders, such as checkpoint-500 of transformers' Trainer, or a snapshot in the Hub's cache.
    inside = [path.parent for pattern in ("*/config.json", "snapshots/*/config.json") for path in folder.glob(pattern)]
    latest = max(inside, key=lambda path: (len(path.name), path.name), default=None)
    remedy = f"name a model folder in it, such as {latest}" if latest else "give one of these"
    raise ModelError(f"{folder}: no config.json here, so this is neither a model folder nor a run folder; {remedy}")


def _last_stage(folder: Path, stages: dict[str, Path]) -> Path:
    """Return the checkpoint of the last stage of a recipe with stages. Raise ModelError if that stage was not started yet."""
    *_, last = stages.values()
    if (last / "checkpoints").is_dir():
        return _find_folder(last)
    started = [str(path) for path in stages.values() if (path / "checkpoints").is_dir()]
    remedy = (
        f"name one of those that were started: {', '.join(started)}"
        if started
        else f"continue with `tfkit resume {shlex.quote(path_argument(folder))}`"
    )
    raise ModelError(f"{folder}: the last of its stages, {last.name}, was not started yet; {remedy}")


def _describe_state(folder: Path) -> str:
    """Return the state of a run from its run.json, as the predicate of a sentence, such as "was stopped"."""
    try:
        run = read_run_json(folder)
    except (OSError, ValueError):
        return "has no readable run.json"
    states = {"running": "is in progress or was killed", "stopped": "was stopped", "killed": "was killed", "new": "was not started"}
    return f"failed ({run.last.error})" if run.status == "failed" else states.get(run.status, "is finished")


def _download(name: str) -> Path:
    """Return the folder of a Hub repository, after a download of its configuration, safetensors, tokenizer and card: no code, no pickles.

    With TFKIT_OFFLINE=1 or HF_HUB_OFFLINE=1, only a repository that was downloaded before can be used.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.file_download import repo_folder_name

    repository, _, revision = name.partition("@")
    files = ["*.json", "*.safetensors", "*.jinja", "vocab.txt", "merges.txt", "*.model", "README.md"]

    def download() -> Path:
        local = is_offline() or constants.HF_HUB_OFFLINE
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=files, local_files_only=local))

    try:
        return fetch(download, Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model"))
    except Exception as error:  # the Hub's client raises exceptions of many libraries
        first = first_line(error)
        raise ModelError(f"hub:{name}: could not be downloaded: {first}; check the name, the revision and the network") from None


def content_hash(folder: Path) -> str:
    """Return one SHA-256 over config.json, adapter_config.json (of an adapter) and the safetensors files in order of their names. It
    identifies the model in the tfkit.json of models trained from it. Raise ModelError if a file differs from the folder's manifest.json.
    """
    names = ["config.json", ADAPTER, *sorted(path.name for path in folder.glob("*.safetensors"))]
    paths = [path for name in names if (path := find_named(folder, name)) is not None]
    with verified(folder, weights=True):
        key = tuple((path.name, identity_of(path)) for path in paths)
        if key in _known:
            return _known[key]
        settled = all(is_settled(identity) for _, identity in key)
        digest = hashlib.sha256()
        for path in paths:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with open(path, "rb", buffering=0) as file:
                hashlib.file_digest(file, lambda: digest)
    if settled:
        _known[key] = digest.hexdigest()
    return digest.hexdigest()


def run_id_of(folder: Path) -> str | None:
    """Return the id of the run that trained the model; None if tfkit.json does not state it."""
    return read_tfkit_json(folder).run_id
