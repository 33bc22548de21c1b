"""Decide the recipe for a user's data and checkpoint, with reasons, if the user gives no recipe."""
