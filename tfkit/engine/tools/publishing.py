"""Publish a model folder on the Hugging Face Hub: choose its files, and upload them in one commit."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tfkit.engine.listener import Listener
from tfkit.errors import MachineError, ModelError, TfkitError, UsageError, argument
from tfkit.hub.config_json import LIMIT
from tfkit.hub.find import ADAPTER, find_checkpoint
from tfkit.network import is_offline, status_of, with_retries
from tfkit.run import strict_json
from tfkit.run.manifest import NAME as MANIFEST
from tfkit.run.manifest import manifest_text, read_manifest, recorded_bytes, verify
from tfkit.run.model_files import read_object

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

Result = TypeVar("Result")

_FOREIGN = ("*.json", "*.safetensors", "*.jinja", "vocab.txt", "merges.txt", "*.model")  # published from another program's model folder
_PATHS = ("_name_or_path", "name_or_path", "tokenizer_file", "vocab_file")  # fields of Hugging Face's files that may contain local paths


@dataclass(frozen=True)
class Publication:
    """A model folder and the files that will be published."""

    folder: Path
    repository: str  # OWNER/NAME
    files: dict[str, Path | bytes]  # by name in the repository: the path of a local file, or its content if that was changed

    def sizes(self) -> dict[str, int]:
        """Return the size of each file in bytes."""
        return {name: len(content) if isinstance(content, bytes) else content.stat().st_size for name, content in self.files.items()}


def prepare(checkpoint: str, repository: str, listener: Listener) -> Publication:
    """Choose the files of a checkpoint to publish: the model, the model card and the emissions of the run.

    The training state is not published, and local paths are cut to their last parts. Raises UsageError for an invalid repository name, and
    ModelError for a checkpoint that is missing or damaged, or is an adapter whose base model is a local folder.
    """
    _check_name(repository)
    folder = find_checkpoint(checkpoint).resolve()
    if (folder / MANIFEST).is_file():
        with listener.progress("checking", recorded_bytes(folder), "bytes") as bar:
            if problems := verify(folder, advance=bar.advance):
                raise ModelError(f"{problems[0]}; `tfkit verify` lists all. Restore the files, or publish another checkpoint")
        files = _own_files(folder)
    else:
        files = {path.name: _published(path) for pattern in _FOREIGN for path in sorted(folder.glob(pattern))}
    if ADAPTER in files:
        _refuse_local_base(folder)
    run = folder.parent.parent if folder.parent.name == "checkpoints" else folder
    files |= {path.name: path for path in (folder / "README.md", run / "emissions.csv") if path.is_file()}
    return Publication(folder, repository, files)


def _check_name(repository: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UsageError(f"{repository}: not a name on the Hub ({error}); write OWNER/NAME") from None
    if "/" not in repository:
        raise UsageError(f"{repository}: name the owner, too: OWNER/NAME")


def _own_files(folder: Path) -> dict[str, Path | bytes]:
    """Return the files to publish from a model folder that tfkit wrote, including a manifest of these files."""
    entries = {name: entry for name, entry in read_manifest(folder).items() if not name.startswith("training_state/")}
    files = {name: _published(folder / name) for name in entries}
    for name, content in files.items():
        if isinstance(content, bytes):
            entries[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return files | {MANIFEST: manifest_text(entries).encode()}


def _published(path: Path) -> Path | bytes:
    """Return the path of a file or, if it is JSON with local paths, its content with each path cut to its last part."""
    try:
        document = strict_json.loads(path.read_bytes()) if path.suffix == ".json" else None
    except ValueError:  # invalid JSON, which another program wrote
        return path
    published = _without_local_paths(document)
    return path if published == document else strict_json.dumps(published, indent=2).encode() + b"\n"


def _without_local_paths(value: Any, key: str = "") -> Any:
    """Return a JSON value in which each local path is replaced by its last part; `key`: the field that has the value."""
    if isinstance(value, dict):
        return {name: _without_local_paths(held, name) for name, held in value.items()}
    if isinstance(value, list):
        return [_without_local_paths(held, key) for held in value]
    is_path = isinstance(value, str) and not value.startswith("hub:") and (key == "path" or (key in _PATHS and Path(value).is_absolute()))
    return Path(value).name if is_path else value


def _refuse_local_base(folder: Path) -> None:
    """Raise ModelError for an adapter whose base model is a local folder, because nobody else could use the adapter."""
    from tfkit.adapters.peft_config import how_to_merge, is_hub_name

    base = read_object(folder / ADAPTER, LIMIT).get("base_model_name_or_path")
    if not is_hub_name(base):
        raise ModelError(
            f"{folder}: an adapter whose base model, {base}, is a folder of this machine, without which nobody can use it: merge them, "
            f"{how_to_merge(folder)}, and push WHOLE; or start the training from a model on the Hub, {argument('start', 'hub:OWNER/NAME')}"
        )


def publish(publication: Publication, public: bool, listener: Listener) -> dict[str, Any]:
    """Upload the files in one commit. A missing repository is created: private, unless `public` is set.

    Returns the `url` of the repository, the hash of its latest `commit`, and whether this push `changed` it. Obsolete weights of
    an earlier push are removed. Files that were uploaded before a connection broke are not uploaded again. Raises UsageError if an existing
    repository is public and `public` is not set, or the reverse; MachineError without a network, or without a token that may write.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if is_offline():
        raise MachineError(
            f"TFKIT_OFFLINE is set, which forbids every connection; unset it, or look at what would be sent with "
            f"{argument('dry_run', True)}"
        )
    disable_progress_bars()  # because the listener shows the progress
    api, name, sizes = HfApi(library_name="tfkit"), publication.repository, publication.sizes()
    before = _ask(name, lambda: _repository(api, name, public))
    existing = [file.rfilename for file in before.siblings or ()]
    stale = [file for file in existing if file.endswith((".safetensors", ".safetensors.index.json")) and file not in publication.files]
    files = publication.files.items()
    additions = [CommitOperationAdd(path, content if isinstance(content, bytes) else str(content)) for path, content in files]
    with listener.progress(f"uploading to {name}", sum(sizes.values()), "bytes") as bar:
        for addition in additions:
            _ask(name, partial(api.preupload_lfs_files, name, [addition], free_memory=False))
            bar.advance(sizes[addition.path_in_repo])
    operations = [*additions, *map(CommitOperationDelete, stale)]
    commit = _ask(name, partial(api.create_commit, name, operations, commit_message=f"{publication.folder.name}, by tfkit push"))
    return {"url": f"{api.endpoint}/{name}", "commit": commit.oid, "changed": commit.oid != before.sha}


def _repository(api: "HfApi", name: str, public: bool) -> "ModelInfo":
    """Return the repository, after creating a missing one. Raises UsageError if it was private and `public` is set, or the reverse."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.model_info(name)
    except RepositoryNotFoundError:
        api.create_repo(name, private=not public)
        info = api.model_info(name)
    if info.private and public:
        raise UsageError(f"{name}: exists and is private; change that on the Hub, or leave out {argument('public', True)}")
    if not info.private and not public:
        raise UsageError(f"{name}: exists and is public; confirm that with {argument('public', True)}, or take another name")
    return info


def _ask(name: str, request: Callable[[], Result]) -> Result:
    """Return the Hub's response to a request, which is repeated after a transient error. Raises MachineError if it fails in the end."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return with_retries(request)
    except TfkitError:
        raise
    except Exception as error:  # the Hub's client may raise exceptions of any type
        cause = error if isinstance(error, HfHubHTTPError) else error.__cause__ or error
        if status_of(error) in (401, 403):
            remedy = "set HF_TOKEN to a token that may write there, or log in with `hf auth login`"
        else:
            remedy = "check the network, then push again: what was uploaded is not sent again"
        first = (str(cause) or type(cause).__name__).strip().partition("\n")[0].rstrip(".")
        raise MachineError(f"{name}: could not be published: {first}; {remedy}") from None
