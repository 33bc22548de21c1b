"""Mapping of a record's columns to roles, the parts of a row that an objective reads (recipe/schema/roles.py)."""
