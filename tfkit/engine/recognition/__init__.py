"""Decide the fields of a recipe that the user leaves open, from the user's data and checkpoint; and give the reasons."""
