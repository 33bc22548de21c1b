"""From a stranger's data and checkpoint to a recipe, with its reasons."""
