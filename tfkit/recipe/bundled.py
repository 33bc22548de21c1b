"""The recipes that come with tfkit: in the wheel beside the package's code, in a checkout at its root; and where their data are from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tfkit


@dataclass(frozen=True)
class BundledRecipe:
    """A recipe and its name, `pretrain/gpt2-stdlib`; the last part alone is enough if it is unique."""

    name: str
    path: Path
    summary: str

    @property
    def command(self) -> str:
        """The command line that runs it."""
        kind, _, name = self.name.rpartition("/")
        return f"tfkit {'finetune' if kind == 'finetune' else 'pretrain'} {name}"


@dataclass(frozen=True)
class DataFile:
    """A public file that a recipe reads: its path there, its address, and its content's hash."""

    path: str  # from the current folder
    url: str
    hash: str  # 64 digits: SHA-256; 40: the name of the file's blob in git, a SHA-1
    bytes: int | None  # None: unknown


@dataclass(frozen=True)
class DataSet:
    """The files of one public data set, with its page and its licence, and the archive or the set that they are made from, if they are."""

    name: str
    source: str
    licence: str
    files: tuple[DataFile, ...]
    archive: DataFile | None
    made_of: str | None  # the name of the other set


def bundled_folder() -> Path:
    """Return their folder in this installation."""
    package = Path(tfkit.__file__).parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def bundled_recipes() -> list[BundledRecipe]:
    """Return all of them, by name; the summary is the first line of comment."""
    folder = bundled_folder()
    paths = sorted(folder.rglob("*.yaml"))
    return [BundledRecipe(path.relative_to(folder).with_suffix("").as_posix(), path, _summary(path)) for path in paths]


def find_bundled(name: str) -> BundledRecipe | None:
    """Find a recipe by its whole name, or by its last part if only one recipe has it."""
    recipes = bundled_recipes()
    name = name.removesuffix(".yaml")
    exact = [recipe for recipe in recipes if recipe.name == name]
    short = [recipe for recipe in recipes if recipe.name.rpartition("/")[2] == name]
    return exact[0] if exact else short[0] if len(short) == 1 else None


def data_sets() -> dict[str, DataSet]:
    """Return the data sets that can be fetched, by the folder `data/NAME` in which recipes look for them (recipes/data.json)."""
    entries = json.loads((bundled_folder() / "data.json").read_text(encoding="utf-8"))
    return {name: _data_set(name, entry) for name, entry in entries.items()}


def _data_set(name: str, entry: Mapping[str, Any]) -> DataSet:
    archive = entry.get("archive")

    def file(path: str, facts: Mapping[str, Any]) -> DataFile:
        url = facts.get("url") or (archive["url"] if archive else entry["source"])
        return DataFile(f"data/{name}/{path}", url, facts.get("sha256") or facts["git_blob"], facts.get("bytes"))

    files = tuple(file(path, facts) for path, facts in entry["files"].items())
    return DataSet(name, entry["source"], entry["licence"], files, file(".archive", archive) if archive else None, entry.get("made_of"))


def fetch_command(path: str) -> str | None:
    """Return the command that fetches a file that a bundled recipe names; None if none does."""
    if path not in {file.path for found in data_sets().values() for file in found.files}:
        return None
    texts = {recipe.name: recipe.path.read_text(encoding="utf-8") for recipe in bundled_recipes()}
    found = Path(path).parent.name  # the data set, which is fetched whole
    names = [name for name, text in texts.items() if f"data/{found}/" in text]
    # Of several the one that is about this data set, else one without stages, which may read derived data, too.
    names.sort(key=lambda name: (found.replace("_", "-") not in name, "\nstages:" in texts[name]))
    return f"tfkit recipes {names[0].rpartition('/')[2]} --fetch" if names else None


def training_command(folder: Path) -> str | None:
    """Return the command that makes a run folder, such as runs/bert-stdlib, in which a bundled recipe starts; None for another folder."""
    recipe = find_bundled(folder.name) if folder.parent == Path("runs") else None
    return None if recipe is None else recipe.command


def _summary(path: Path) -> str:
    with path.open(encoding="utf-8") as lines:
        return next((line.lstrip("# ").strip() for line in lines if line.startswith("#")), "")
