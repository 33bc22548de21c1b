"""Reading of a recipe: finding its file, parsing, applying overrides, validating each field, and checking fields against each other."""

import difflib
import json
import os
import re
import select
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tfkit.errors import ModelError, UsageError, argument
from tfkit.recipe.bundled import bundled_recipes, find_bundled
from tfkit.recipe.dump import dump_document
from tfkit.recipe.presets import model_problems
from tfkit.recipe.reading.checks import cross_problems
from tfkit.recipe.reading.files import missing_files
from tfkit.recipe.reading.overrides import NO_OVERRIDES, Overrides, add_later_fields, apply_overrides
from tfkit.recipe.reading.parse import MAX_BYTES, copy_of, parse
from tfkit.recipe.reading.problems import MAX_PATH, Problem, RecipeError, cut
from tfkit.recipe.reading.rank_divisibility import dealing_problems
from tfkit.recipe.reading.stage_trees import stage_trees
from tfkit.recipe.reading.tree import STAGES, Mapping, Node, Place, flatten, has_stages, plain
from tfkit.recipe.reading.validate import problems_in
from tfkit.recipe.schema.bounds import MAX_VOCAB_SIZE
from tfkit.recipe.schema.sections import Recipe

PIPE_SECONDS = 10.0  # a pipe that sends nothing for this long is an error

_RECIPES = ("", ".yaml", ".yml")  # suffixes of recipe files and, the empty one, of pipes


@dataclass(frozen=True)
class RecipeText:
    """The text of a recipe that is not checked yet, with the path from which it was read."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        """The default name of the run: the file's name without its suffix, in the characters that are allowed for folders."""
        return slug(self.path.stem)

    @cached_property
    def _parsed(self) -> tuple[Node | None, list[Problem]]:
        return parse(self.text, str(self.path))

    def _tree(self) -> tuple[Node | None, list[Problem]]:
        """Return a copy of the tree, for the caller to change, and its problems. Raises RecipeError if the text cannot be parsed."""
        root, problems = self._parsed
        return None if root is None else copy_of(root), list(problems)

    def read(self, overrides: Overrides = NO_OVERRIDES) -> Recipe:
        """Return the checked recipe with overrides. Raises RecipeError with all problems, each a line `place: field: problem; remedy`."""
        return self.resolve(overrides).recipe

    def resolve(self, overrides: Overrides = NO_OVERRIDES, *, with_files: bool = False, ranks: int = 1) -> "ResolvedRecipe":
        """Return the checked recipe with overrides, and the fields that text and overrides state. Raises RecipeError as `read` does.

        `with_files`: missing files and folders are problems, too; `ranks`: the number of processes among which each step is divided.
        """
        recipe, tree = _read(*self._tree(), str(self.path), overrides, with_files=with_files, ranks=ranks)
        return ResolvedRecipe(recipe, self, plain(tree))

    @property
    def comment(self) -> str:
        """The comment lines at the beginning of the text."""
        return "".join(takewhile(lambda line: line.startswith("#"), self.text.lstrip("\n").splitlines(keepends=True)))

    @property
    def has_stages(self) -> bool:
        """Whether this is a chain of recipes, which `read_chain` reads. False for a text that is not YAML: `read` reports that error."""
        try:
            return has_stages(self._parsed[0])
        except RecipeError:
            return False

    def fields(self) -> dict[str, Any]:
        """Return the values in the text by dotted name; a list is one value. In a chain, a name begins with the name of its stage.

        Raises RecipeError if the text is not YAML.
        """
        tree, problems = self._tree()
        if problems:
            raise RecipeError(problems)
        if not isinstance(tree, Mapping):
            return {}
        return flatten({name: plain(stage) for name, stage in stage_trees(tree)[0].items()} if has_stages(tree) else plain(tree))


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe that passed every check."""

    recipe: Recipe
    source: RecipeText
    document: dict[str, Any]  # the fields that the source and the overrides state
    decided: Overrides = field(default_factory=dict)  # the fields that tfkit chose by the amount of data

    @property
    def text(self) -> str:
        """The document as YAML, after the comment of the source."""
        return self.source.comment + dump_document(self.document)

    @property
    def name(self) -> str:
        """The default name of the run."""
        return self.source.name

    @property
    def path(self) -> Path:
        """The recipe's file."""
        return self.source.path


def open_recipe(name_or_path: str) -> RecipeText:
    """Read a recipe's text without checking it. Raises UsageError if the file is missing, cannot be read, or holds data, not a recipe."""
    path = find_recipe(name_or_path)
    try:
        recipe = RecipeText(path, _text(path))
        if path.suffix.lower() in _RECIPES or isinstance(recipe._parsed[0], Mapping):
            return recipe
        problem = Problem(Place(str(path), 1, 1), (), "this is no recipe")
    except RecipeError as error:
        if path.suffix.lower() in _RECIPES:
            raise
        problem = error.problems[0]
    raise RecipeError([replace(problem, message=f"{problem.message}; if {path.name} is data, name it with {argument('data')}")])


def read_recipe(name_or_path: str, overrides: Overrides = NO_OVERRIDES) -> ResolvedRecipe:
    """Read and check a recipe with overrides; see `RecipeText.read`."""
    return open_recipe(name_or_path).resolve(overrides)


def read_run_recipe(run: Path) -> ResolvedRecipe:
    """Read and check the recipe.yaml of a run folder. Raises ModelError if it is missing or invalid, because the run is then damaged."""
    try:
        return read_recipe(str(run / "recipe.yaml"))
    except UsageError as error:
        raise ModelError(f"{error}\nThis is the recipe of the run {run}, as tfkit wrote it: restore the file") from None


def read_document(document: dict[str, Any], name: str, overrides: Overrides = NO_OVERRIDES, comment: str = "") -> ResolvedRecipe:
    """Check a recipe that is given as nested dicts, with overrides, and return it. `comment`: the comment at the beginning of its text."""
    tree, problems = parse(dump_document(document), name)
    recipe, changed = _read(tree, problems, name, overrides)
    return ResolvedRecipe(recipe, RecipeText(Path(name), comment), plain(changed))


def _read(
    tree: Node | None, problems: list[Problem], name: str, overrides: Overrides, *, with_files: bool = False, ranks: int = 1
) -> tuple[Recipe, Mapping]:
    if not isinstance(tree, Mapping):
        what = "is empty" if tree is None else "is not made of sections"
        raise RecipeError([*problems, Problem(Place(name, 1, 1), (), f"the recipe {what}; `tfkit recipes` lists examples")])
    if has_stages(tree):
        message = "a recipe without stages is needed here; each stage of a chain that was run has its own, runs/NAME/STAGE/recipe.yaml"
        raise RecipeError([*problems, Problem(tree.keys[STAGES], (STAGES,), message)])
    add_later_fields(tree)
    problems += apply_overrides(tree, overrides)
    recipe, more = check_tree(tree)
    problems += [
        *more,
        *(missing_files(tree) if with_files else []),
        *(dealing_problems(recipe, tree, ranks) if recipe and ranks > 1 else []),
    ]
    if problems or recipe is None:
        raise RecipeError(problems)
    return recipe, tree


def find_recipe(name_or_path: str) -> Path:
    """Return the path of a recipe's file, or of the bundled recipe with this name. Raises UsageError if there is neither."""
    path = Path(name_or_path)
    try:
        if path.is_file() or path.is_fifo() or path.is_char_device():
            return path
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError):  # no file can have this name, or a folder on its path may not be read
        is_folder = exists = False
    if bundled := find_bundled(name_or_path):
        return bundled.path
    shown = cut(name_or_path, MAX_PATH)
    if is_folder:
        raise UsageError(f"{shown}: a folder, not a recipe; a run's recipe is {path / 'recipe.yaml'}")
    if exists:
        raise UsageError(f"{shown}: neither a file nor a pipe, so no recipe can be read from it")
    names = [name for recipe in bundled_recipes() for name in (recipe.name, recipe.name.rpartition("/")[2])]
    close = difflib.get_close_matches(name_or_path, names, n=1)
    remedy = f"did you mean {close[0]}" if close else "`tfkit recipes` lists the bundled ones"
    raise UsageError(f"{shown}: no such file, and no bundled recipe has this name; {remedy}")


def _text(path: Path) -> str:
    try:
        content = _read_pipe(path) if path.is_fifo() else _read_file(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}; check the path and its permissions") from error
    start = Place(str(path), 1, 1)
    if len(content) > MAX_BYTES:
        raise RecipeError([Problem(start, (), f"larger than {MAX_BYTES:,} bytes, which no recipe needs")])
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise RecipeError([Problem(start, (), "begins with a byte order mark; save it as UTF-8 without BOM")])
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8")) + 1
        place = Place(str(path), before.count(b"\n") + 1, column)
        raise RecipeError([Problem(place, (), f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8")]) from None


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _read_pipe(path: Path) -> bytes:
    """Read from a pipe, as in `tfkit check <(make-recipe)`. Raises UsageError if it sends nothing for PIPE_SECONDS."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # O_NONBLOCK, because opening would wait for a writer
    content = b""
    try:
        while len(content) <= MAX_BYTES:
            if not select.select([descriptor], [], [], PIPE_SECONDS)[0]:
                raise UsageError(f"{path}: a pipe with no data for {PIPE_SECONDS:g} seconds; check the program that writes to it")
            if not (chunk := os.read(descriptor, 1 << 16)):
                break
            content += chunk
    finally:
        os.close(descriptor)
    return content


def check_tree(tree: Mapping, *, across: bool = True) -> tuple[Recipe | None, list[Problem]]:
    """Return the recipe of a tree (None if a field is invalid), and all problems: those of single fields or, if there are none and
    `across` is true, the contradictions between fields.
    """
    data = plain(tree)
    for name, info in Recipe.model_fields.items():  # a section without `kind` gets the default kind: `optimizer: {lr: 1e-3}` is AdamW
        if info.discriminator and isinstance(section := data.get(name), dict) and isinstance(info.default, BaseModel):
            section.setdefault("kind", getattr(info.default, "kind", None))
    recipe: Recipe | None = None
    problems: list[Problem] = []
    try:
        # The data are passed as JSON, because pydantic's strict validation accepts a list for a tuple only in JSON.
        recipe = Recipe.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        problems = problems_in(error, Recipe, data, tree)
    if isinstance(model := data.get("model"), dict):
        problems += model_problems(model, _planned_vocab_size(data), tree)
    if across and recipe is not None and not problems:
        problems = cross_problems(recipe, tree)
    return recipe, problems


def _planned_vocab_size(data: dict[str, Any]) -> int:
    """Return tokenizer.vocab_size; 1, the smallest size, if it is missing or invalid (an invalid size is reported elsewhere)."""
    tokenizer = data.get("tokenizer")
    size = tokenizer.get("vocab_size") if isinstance(tokenizer, dict) else None
    return size if isinstance(size, int) and 0 < size <= MAX_VOCAB_SIZE else 1


def slug(name: str) -> str:
    """Return a name in lower case and in characters that are allowed for folders: letters, digits, dot, underscore and hyphen."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.") or "recipe"
