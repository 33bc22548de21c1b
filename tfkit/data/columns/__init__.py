"""Mapping of a record's columns to roles, the parts of a row that an objective reads (tfkit/recipe/schema/roles.py)."""
