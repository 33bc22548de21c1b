"""The recipes that come with tfkit, in the folder `recipes` of an installed package or of a checkout, and the sources of their data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tfkit


@dataclass(frozen=True)
class BundledRecipe:
    """A bundled recipe. A user names it by its `name`, such as `pretrain/gpt2-stdlib`, or by the last part of this name if it is unique."""

    name: str
    path: Path
    summary: str

    @property
    def command(self) -> str:
        """The command line that runs the recipe."""
        kind, _, name = self.name.rpartition("/")
        return f"tfkit {'finetune' if kind == 'finetune' else 'pretrain'} {name}"


@dataclass(frozen=True)
class DataFile:
    """A public file that a recipe reads, or an archive of such files."""

    path: str  # relative to the current folder, as recipes name it
    url: str
    hash: str  # hash of the content: SHA-256 if it has 64 digits; if it has 40, the SHA-1 of the file's blob in git
    bytes: int | None  # the size of the file; None: unknown


@dataclass(frozen=True)
class DataSet:
    """A public data set."""

    name: str
    source: str  # the URL of its page
    licence: str
    files: tuple[DataFile, ...]
    archive: DataFile | None  # the archive that holds the files; None: each file has a URL of its own, or is made of another data set
    made_of: str | None  # the name of the data set from which the files are made; None: the files are downloaded


def bundled_folder() -> Path:
    """Return the folder of the bundled recipes in this installation."""
    package = Path(tfkit.__file__).parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def bundled_recipes() -> list[BundledRecipe]:
    """Return the bundled recipes, sorted by name; the summary of each is the first comment line of its file."""
    folder = bundled_folder()
    recipes = []
    for path in sorted(folder.rglob("*.yaml")):
        comment = next((line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")), "")
        recipes.append(BundledRecipe(path.relative_to(folder).with_suffix("").as_posix(), path, comment.lstrip("# ").strip()))
    return recipes


def find_bundled(name: str) -> BundledRecipe | None:
    """Find a bundled recipe by its full name, or by the last part of the name if that is unique; None if there is no such recipe."""
    recipes = bundled_recipes()
    name = name.removesuffix(".yaml")
    exact = [recipe for recipe in recipes if recipe.name == name]
    short = [recipe for recipe in recipes if recipe.name.rpartition("/")[2] == name]
    return exact[0] if exact else short[0] if len(short) == 1 else None


def data_sets() -> dict[str, DataSet]:
    """Return the data sets in recipes/data.json, which tfkit can download, by the NAME of the folder `data/NAME` that recipes read."""
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
    """Return the command that downloads the file `path`; None if it is in none of `data_sets`, or no bundled recipe reads its set."""
    if path not in {file.path for data_set in data_sets().values() for file in data_set.files}:
        return None
    texts = {recipe.name: recipe.path.read_text(encoding="utf-8") for recipe in bundled_recipes()}
    data_set = Path(path).parent.name  # the command downloads all files of the data set
    names = [name for name, text in texts.items() if f"data/{data_set}/" in text]
    # First recipes with the data set's name in theirs, then those without stages, since one with stages may need more data sets.
    names.sort(key=lambda name: (data_set.replace("_", "-") not in name, "\nstages:" in texts[name]))
    return f"tfkit recipes {names[0].rpartition('/')[2]} --fetch" if names else None


def training_command(folder: Path) -> str | None:
    """Return the command that creates the run folder of a bundled recipe, such as runs/bert-stdlib; None for any other folder."""
    recipe = find_bundled(folder.name) if folder.parent == Path("runs") else None
    return None if recipe is None else recipe.command
