"""The fields of a recipe and their bounds: strict, frozen, torch-free."""
