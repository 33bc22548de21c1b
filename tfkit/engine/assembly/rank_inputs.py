"""Check that all ranks of a command (processes that compute together) read the same inputs: rows, tokenizer, models, reward functions."""

from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tfkit.alignment.user_code import code_hashes
from tfkit.engine.assembly.training_data import TrainingData, tokenizer_folder
from tfkit.engine.request.inputs import Inputs, inputs_of
from tfkit.errors import DataError, ModelError, TfkitError
from tfkit.recipe.schema.sections import Recipe
from tfkit.run import manifest
from tfkit.run.manifest import manifest_text, read_manifest, sha256_of
from tfkit.tokenizer.tokenizer_files import TOKENIZER_FILES

_REMEDY = "Give all ranks the same: copy that of rank 0, or use a disk that they share"
_SHOWN = 3  # number of files that a message names


@dataclass(frozen=True)
class RankInput:
    """An input of a command, such as a data set or a model, as this rank reads it. Its fingerprint must be the same on all ranks."""

    place: str  # for messages: a field of the recipe with its value, or the path or source that is read
    fingerprint: str  # a hash of all parts of the input on which results depend
    error: type[TfkitError]  # raised if the fingerprints differ
    files: Callable[[], dict[str, Path]]  # returns the files, each by a name that is the same on all ranks


def inputs_on_rank(recipe: Recipe, data: TrainingData, checkpoint: Path | None) -> Iterator[RankInput]:
    """Yield the inputs of a training. An input precedes those that depend on it, so the first that differs between ranks is the cause.

    `checkpoint`: the checkpoint from which the run continues; None for a new run. Raises ModelError if the checkpoint is incomplete.
    """
    if checkpoint is not None:
        yield RankInput(f"{checkpoint}", manifest_text(read_manifest(checkpoint)), ModelError, partial(_files_in, checkpoint))
    tokenizer = f"{data.tokenizer.fingerprint()} {data.tokenizer.chat_template}"
    if (start := data.start) is not None:
        files = partial(_files_in, start.described.folder)
        yield RankInput(f"model.from: {start.path}", f"{start.sha256} {tokenizer}", ModelError, files)
    elif (path := recipe.tokenizer.path) is not None:
        yield RankInput(f"tokenizer.path: {path}", tokenizer, ModelError, lambda: _files_in(tokenizer_folder(path), TOKENIZER_FILES))
    for companion in data.objective.recorded_companions:
        files = partial(_files_in, companion.folder)
        yield RankInput(f"objective.{companion.name}: {companion.path}", companion.sha256, ModelError, files)
    section, fingerprints = recipe.data, data.fingerprints()
    held_out = section.train if isinstance(section.validation, float) else section.validation
    for name, sources in (("train", section.train), ("validation", held_out), ("pretraining", section.pretraining)):
        for number, (source, fingerprint) in enumerate(zip(sources or (), fingerprints.get(name, ()), strict=True)):
            files = partial(inputs_of((), [source], ()).found_files)
            what = source.path or source.hub or "the standard library"
            yield RankInput(f"data.{name}.{number}: {what}", fingerprint, DataError, files)


def files_on_rank(folder: Path, inputs: Inputs) -> Iterator[RankInput]:
    """Yield the inputs of a command that does not train: the model in `folder`, and the sources and files in `inputs`."""
    hashed = _files_in(folder, (manifest.NAME,)) or _files_in(folder)
    yield RankInput(f"{folder}", _fingerprint(hashed), ModelError, partial(_files_in, folder))
    for source in inputs.sources:
        files = Inputs(sources=(source,)).found_files
        yield RankInput(source, _fingerprint(files()), DataError, files)
    for file in inputs.files:
        found = {file.name: file} if file.exists() else {}
        yield RankInput(f"{file}", _fingerprint(found), DataError, found.copy)


def _fingerprint(files: Mapping[str, Path]) -> str:
    return " ".join(f"{name} {sha256_of(path)[0]}" for name, path in sorted(files.items()))


def require_code_of_first(recipe: Recipe, first: Collection[str], rank: int) -> None:
    """Raise DataError if a file of reward functions is not among those of rank 0, whose SHA-256 are `first`. The code is not run."""
    files = recipe.objective.code_files
    for (place, path), sha256 in zip(files.items(), code_hashes(files), strict=True):
        if sha256 not in first:
            raise DataError(f"{place}: {path} is not the same on all ranks: on rank {rank} it is another file. {_REMEDY}")


def require_same_inputs(inputs: Sequence[RankInput], exchange: Callable[[Any], list[Any]]) -> None:
    """Raise, on all ranks, the `error` of the first input that differs between them. The message names the ranks and the files.

    `exchange` takes a value of this rank, and returns those of all ranks. Files are hashed only if the fingerprints differ.
    """
    by_rank = exchange([one.fingerprint for one in inputs])
    for one, found in zip(inputs, zip(*by_rank, strict=True), strict=True):
        if others := [rank for rank, fingerprint in enumerate(found) if fingerprint != found[0]]:
            hashes = exchange({name: sha256_of(path)[0] for name, path in one.files().items()})
            raise one.error(
                f"{one.place} is not the same on all ranks: on rank {', '.join(map(str, others))}, "
                f"{_describe_difference(hashes[0], hashes[others[0]])}. {_REMEDY}"
            )


def _describe_difference(first: dict[str, str], other: dict[str, str]) -> str:
    """Describe how the files `other` of a rank differ from `first`, those of rank 0. Both are given as hashes by name."""
    names = sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name))
    if not names:
        return "the files are those of rank 0, and tfkit, Python or a library has another version"
    shown = [f"{name} is {'missing' if name not in other else 'another file' if name in first else 'added'}" for name in names[:_SHOWN]]
    return ", ".join(shown) + (f", and {len(names) - _SHOWN:,} more differ" if len(names) > _SHOWN else "")


def _files_in(folder: Path | None, names: Container[str] | None = None) -> dict[str, Path]:
    """Return a model folder's files by name, only those in `names` if given; empty for a model in memory, which has no folder."""
    files = [path for path in folder.iterdir() if path.is_file()] if folder is not None else []
    return {path.name: path for path in files if names is None or path.name in names}
