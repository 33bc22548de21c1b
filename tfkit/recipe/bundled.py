"""The recipes that come with tfkit: in the wheel beside the package's code, in a checkout at its root."""

from dataclasses import dataclass
from pathlib import Path

import tfkit


@dataclass(frozen=True)
class BundledRecipe:
    """A recipe and its name, `pretrain/gpt2-stdlib`; the last part alone is enough if it is unique."""

    name: str
    path: Path
    summary: str


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


def _summary(path: Path) -> str:
    with path.open(encoding="utf-8") as lines:
        return next((line.lstrip("# ").strip() for line in lines if line.startswith("#")), "")
