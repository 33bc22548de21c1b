"""The fields of a recipe and their bounds, as pydantic models that reject unknown fields."""
