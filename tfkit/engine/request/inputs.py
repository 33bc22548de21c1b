"""The inputs of a command, and the check that its outputs neither replace them nor lie in a run folder or a model folder."""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tfkit.errors import DataError, UsageError
from tfkit.recipe.schema.carbon_section import CarbonSection
from tfkit.recipe.schema.data_sections import DataSection, SourceSection
from tfkit.recipe.schema.objective_facts import ObjectiveSection
from tfkit.recipe.schema.sections import Recipe

# Some files that a run writes into its folder. `refuse_folder` tests whether a source of rows (a file, folder or glob) would read them.
_RUN_FILES = (
    *("recipe.yaml", "run.json", "metrics.jsonl", "emissions.csv", "carbon/1.jsonl", "crash.log"),
    *("checkpoints/step-000001/README.md", "checkpoints/step-000001/config.json"),
)


@dataclass(frozen=True)
class Inputs:
    """The files, the sources of rows and the model folders that a command reads."""

    files: tuple[Path, ...] = ()
    sources: tuple[str, ...] = ()  # files, folders and globs
    models: tuple[Path, ...] = ()  # folders

    def found_files(self) -> dict[str, Path]:
        """Return the files of the sources, and all files in the model folders, by path."""
        walked = (Path(place, name) for folder in self.models for place, _, names in os.walk(folder) for name in names)
        return {str(file): file for file in (*(file for source in self.sources for file in _find(source)), *walked)}

    def refuse_output(self, path: Path, option: str, run: Path | None = None) -> None:
        """Raise UsageError if `path`, an output, is an input, would be read as part of one, or lies in a run folder or a model folder.

        This holds for the path itself as well as for the file to which it leads by a symbolic or hard link.
        `option`: the name of the option, for the message; `run`: the run folder of the command.
        """
        for source in self.sources:
            if _is_read_by(path, source):
                raise _refusal(path, option, f"is among the data that this command reads from {source}, or would be from now on")
        read = [*self.files, *self.found_files().values()] if path.exists() else []
        if (same := next((file for file in read if _are_same(path, file)), None)) is not None:
            raise _refusal(path, option, f"is {same} itself, which this command reads, and would be replaced")
        own = [Path(os.path.realpath(folder)) for folder in (*self.models, run) if folder is not None]
        for place in (Path(os.path.realpath(path.parent)), Path(os.path.realpath(path)).parent):
            for folder in (place, *place.parents):
                if folder in own or _is_run_or_model(folder):
                    raise _refusal(path, option, f"lies in {folder}, a run folder or a model folder, where nothing else belongs")

    def refuse_folder(self, path: Path, option: str) -> None:
        """Raise UsageError if `path`, a folder to be written, is or lies in an input, or if files in it would be read as data."""
        for file in self.files:
            if _are_same(path, file):
                raise _refusal(path, option, f"is {file} itself, which this command reads")
        for source in self.sources:
            if any(_is_read_by(path / name, source) for name in ("", *_RUN_FILES)):
                raise _refusal(path, option, f"lies in the data that this command reads from {source}, and its files would be among them")
        for folder in self.models:
            with suppress(OSError, RuntimeError):  # RuntimeError: symbolic links that form a loop
                if path.resolve().is_relative_to(folder.resolve()):
                    raise _refusal(path, option, f"lies in {folder}, which this command reads, and where nothing else belongs")


def recipe_inputs(recipe: Recipe, *files: Path) -> Inputs:
    """Return the inputs of a training: the files, sources and models that its recipe names, and in addition `files`."""
    models = [recipe.model.start, recipe.tokenizer.path, *recipe.objective.companion_paths.values()]
    return inputs_of([*files, *files_of(recipe.objective, recipe.carbon)], sections_of(recipe.data), models)


def files_of(objective: ObjectiveSection, carbon: CarbonSection) -> list[Path]:
    """Return the files that the sections `objective` and `carbon` name: a user's code, and the file of carbon intensities."""
    return [Path(os.path.expanduser(name)) for name in (*objective.code_files.values(), carbon.intensity_file) if name is not None]


def sections_of(data: DataSection) -> list[SourceSection]:
    """Return all sources of rows: for training, for validation, and for the pretraining text that is mixed into the steps."""
    return [*data.train, *(data.validation if isinstance(data.validation, list) else []), *(data.pretraining or [])]


def inputs_of(files: Iterable[Path], sections: Iterable[SourceSection], models: Iterable[str | Path | None]) -> Inputs:
    """Return `files`, the paths in `sections` and the model folders as the inputs of a command. If a model is a run folder, its folder of
    checkpoints is the input; models on the Hub are left out.
    """
    sections = list(sections)
    sources = [path for section in sections for path in (section.path, *section.beside.values()) if path is not None]
    named = [name for name in (*models, *(section.hub for section in sections)) if name and not str(name).startswith("hub:")]
    folders = [Path(os.path.expanduser(name)) for name in named]
    folders = [folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder for folder in folders]
    of_classes = (Path(os.path.expanduser(section.class_names)) for section in sections if isinstance(section.class_names, str))
    return Inputs((*files, *of_classes), tuple(sources), tuple(folder for folder in folders if folder.is_dir()))


def _is_run_or_model(folder: Path) -> bool:
    """Whether a folder is a run folder, or a model folder of tfkit, transformers or peft."""
    if any(os.path.isfile(folder / name) for name in ("run.json", "tfkit.json", "adapter_config.json")):
        return True
    with suppress(OSError), open(folder / "config.json", "rb") as file:  # other programs have a config.json, too, but without model_type
        return b'"model_type"' in file.read(1 << 20)
    return False


def _are_same(path: Path, other: Path) -> bool:
    """Whether both paths lead to the same file, possibly by symbolic or hard links."""
    with suppress(OSError, RuntimeError):  # RuntimeError: symbolic links that form a loop
        return path.resolve() == other.resolve() or path.samefile(other)
    return False


def _is_read_by(path: Path, source: str) -> bool:
    from tfkit.data.sources.local_files import is_read_by  # imported here, because commands without sources do not need it

    return is_read_by(path, source)


def _find(source: str) -> list[Path]:
    from tfkit.data.sources.local_files import find_files

    with suppress(DataError):  # the error is raised when the source is read
        return find_files(source)
    return []


def _refusal(path: Path, option: str, reason: str) -> UsageError:
    return UsageError(f"{option} {path}: {reason}; give another place with {option}")
