"""Recipes: reading, checking and writing them. The only package that reads YAML; free of torch."""

from tfkit.recipe.bundled import BundledRecipe, bundled_recipes
from tfkit.recipe.chain import Chain, Stage, read_chain, read_recipes
from tfkit.recipe.dump import dump_recipe
from tfkit.recipe.json_schema import json_schema
from tfkit.recipe.presets import model_config
from tfkit.recipe.reading.problems import RecipeError
from tfkit.recipe.reading.read import RecipeText, ResolvedRecipe, find_recipe, open_recipe, read_recipe
from tfkit.recipe.schema.sections import Recipe

__all__ = [
    "BundledRecipe",
    "Chain",
    "Recipe",
    "RecipeError",
    "RecipeText",
    "ResolvedRecipe",
    "Stage",
    "bundled_recipes",
    "dump_recipe",
    "find_recipe",
    "json_schema",
    "model_config",
    "open_recipe",
    "read_chain",
    "read_recipe",
    "read_recipes",
]
