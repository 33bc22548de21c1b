"""Mapping of a record's columns to the roles of a row (recipe/schema/roles.py)."""
