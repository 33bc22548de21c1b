"""A chain: a recipe with stages. Each stage is a recipe of its own, which may start from an earlier stage's model or learn from it."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfkit.recipe.dump import dump_document, recipe_document
from tfkit.recipe.reading.checks import long_rows, model_values
from tfkit.recipe.reading.files import missing_files, model_paths
from tfkit.recipe.reading.overrides import NO_OVERRIDES, Overrides, add_later_fields, apply_overrides
from tfkit.recipe.reading.parse import parse
from tfkit.recipe.reading.problems import Problem, RecipeError, problem_at
from tfkit.recipe.reading.rank_divisibility import dealing_problems
from tfkit.recipe.reading.read import RecipeText, check_tree
from tfkit.recipe.reading.stage_trees import drop_pin, stage_overrides, stage_trees
from tfkit.recipe.reading.tree import Mapping, plain
from tfkit.recipe.schema.sections import Recipe

_MISSING_HEAD = {  # by required kind of head: what a model without it cannot do, and which objectives train it
    "classes": "gives a text no score: name a stage of reward or classification",
    "lm": "does not continue a text: name a stage of causal_lm or chat",
}


@dataclass(frozen=True)
class Stage:
    """A stage of a chain. Where it uses an earlier stage's model, `recipe` and `document` have that stage's name in place of a path."""

    name: str
    recipe: Recipe
    document: dict[str, Any]  # the stage as the user wrote it, changed by the overrides
    uses: tuple[str, ...]  # the names of the earlier stages whose models it uses

    def placed(self, file: Path, folder: Path) -> RecipeText:
        """Return this stage as a recipe, with run folders in `folder` in place of the names of earlier stages. `file`: the chain's file."""
        document = deepcopy(self.document)
        for (section, field), value in model_paths(document):
            if value in self.uses:
                document[section][field] = str(folder / value)
        return RecipeText(file.with_name(f"{file.name}:{self.name}"), dump_document(document))

    def folder_named_in(self, fields: Overrides) -> Path | None:
        """Return the `folder` given to `placed`, from `fields`, the values in the recipe it returned; None if no earlier stage is used."""
        paths = (fields.get(f"{section}.{field}") for (section, field), value in model_paths(self.document) if value in self.uses)
        return next((Path(path).parent for path in paths if isinstance(path, str)), None)


@dataclass(frozen=True)
class Chain:
    """The stages of a recipe, in order."""

    source: RecipeText
    stages: tuple[Stage, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the stages."""
        return tuple(stage.name for stage in self.stages)

    @property
    def document(self) -> dict[str, Any]:
        """The chain as the user wrote it, changed by the overrides."""
        return {"stages": {stage.name: stage.document for stage in self.stages}}

    @property
    def resolved(self) -> str:
        """The chain as YAML, with all fields of each stage (of its model, those stated), so that later versions of tfkit run it alike."""
        return dump_document({"stages": {stage.name: recipe_document(stage.recipe, None) for stage in self.stages}})


def read_chain(source: RecipeText, overrides: Overrides = NO_OVERRIDES, *, with_files: bool = False, ranks: int = 1) -> Chain:
    """Check a recipe with stages, and return its chain. The name of an override begins with that of a stage: `sft.training.epochs`.

    Raises RecipeError with the problems of all stages, one per line. `with_files`: missing files and folders are problems, too; `ranks`:
    the number of processes among which each step is divided.
    """
    tree, problems = parse(source.text, str(source.path))
    assert isinstance(tree, Mapping), "RecipeText.has_stages tests whether this is a chain"
    trees, malformed = stage_trees(tree)
    of_stages, unassigned = stage_overrides(overrides, [*trees])
    problems += [*malformed, *(unassigned if trees else [])]
    stages: list[Stage] = []
    models: dict[str, dict[str, Any]] = {}  # the known config values of each stage's model, by the stage's name
    for name, stage in trees.items():
        add_later_fields(stage)
        drop_pin(stage, of_stages[name])
        stage_problems = apply_overrides(stage, of_stages[name])
        recipe, wrong = check_tree(stage)
        uses, misplaced = _uses(stage, name, [*trees])
        missing = [problem for problem in missing_files(stage) if problem.path not in uses] if with_files else []
        stage_problems += [*wrong, *misplaced, *missing, *(dealing_problems(recipe, stage, ranks) if recipe and ranks > 1 else [])]
        if recipe is not None:
            stage_problems += [*_long_rows(recipe, stage, name, models), *_unfit_companions(recipe, stage, uses, stages)]
            stages.append(Stage(name, recipe, plain(stage), tuple(dict.fromkeys(uses.values()))))
        problems += [replace(problem, path=(name, *problem.path)) for problem in stage_problems]
    if problems:
        raise RecipeError(problems)
    return Chain(source, tuple(stages))


def _long_rows(recipe: Recipe, stage: Mapping, name: str, models: dict[str, dict[str, Any]]) -> list[Problem]:
    """Return a problem if the rows of the stage `name` are too long for the model of the earlier stage from which it starts.

    `models` has config values of earlier stages' models. Those of this stage's are added, unless it starts from a model not in `models`.
    """
    start = models.get(recipe.model.start or "")
    if recipe.model.start is None or start is not None:
        models[name] = model_values(recipe.model, start)
    contradictions = long_rows(recipe, models[name]) if start is not None else ()
    return [problem_at(stage, path, message) for path, message in contradictions]


def _unfit_companions(recipe: Recipe, tree: Mapping, uses: dict[tuple[str | int, ...], str], earlier: Sequence[Stage]) -> list[Problem]:
    """Return a problem for each earlier stage whose model the objective uses, say as reward model, although its head is of a wrong kind."""
    trained = {stage.name: stage.recipe.objective.trained_for for stage in earlier}
    problems = []
    for name, head in recipe.objective.companion_heads.items():
        path = ("objective", name)
        if (used := trained.get(uses.get(path, ""))) is not None and used.head != head:
            problems.append(problem_at(tree, path, f"the stage {uses[path]} trains a model of {used.kind}, which {_MISSING_HEAD[head]}"))
    return problems


def read_recipes(source: RecipeText, overrides: Overrides = NO_OVERRIDES, *, with_files: bool = False, ranks: int = 1) -> list[Recipe]:
    """Check a recipe, or all stages of a chain, and return a list with the recipe of each. Raises RecipeError with all problems."""
    if source.has_stages:
        return [stage.recipe for stage in read_chain(source, overrides, with_files=with_files, ranks=ranks).stages]
    return [source.resolve(overrides, with_files=with_files, ranks=ranks).recipe]


def _uses(stage: Mapping, name: str, names: list[str]) -> tuple[dict[tuple[str | int, ...], str], list[Problem]]:
    """Return the stages that `stage` names in place of model folders, by field, and a problem for each that is not an earlier stage."""
    uses: dict[tuple[str | int, ...], str] = {}
    problems = []
    for path, value in model_paths(plain(stage)):
        if not isinstance(value, str) or value not in names:
            continue
        uses[path] = value
        if names.index(value) >= names.index(name):
            which = "this stage itself" if value == name else "a later stage"
            message = f"{value} is {which}, which has no model yet: name an earlier stage or, for a folder, ./{value}"
            problems.append(problem_at(stage, path, message))
    return uses, problems
