"""Reading, checking and writing of recipes. This is the only package that reads YAML; its modules do not import torch."""

from tfkit.recipe.bundled import BundledRecipe as BundledRecipe
from tfkit.recipe.bundled import bundled_recipes as bundled_recipes
from tfkit.recipe.chain import Chain as Chain
from tfkit.recipe.chain import Stage as Stage
from tfkit.recipe.chain import read_chain as read_chain
from tfkit.recipe.chain import read_recipes as read_recipes
from tfkit.recipe.dump import dump_recipe as dump_recipe
from tfkit.recipe.json_schema import json_schema as json_schema
from tfkit.recipe.presets import model_config as model_config
from tfkit.recipe.reading.problems import RecipeError as RecipeError
from tfkit.recipe.reading.read import RecipeText as RecipeText
from tfkit.recipe.reading.read import ResolvedRecipe as ResolvedRecipe
from tfkit.recipe.reading.read import find_recipe as find_recipe
from tfkit.recipe.reading.read import open_recipe as open_recipe
from tfkit.recipe.reading.read import read_recipe as read_recipe
from tfkit.recipe.reading.read import read_run_recipe as read_run_recipe
from tfkit.recipe.schema.sections import Recipe as Recipe
