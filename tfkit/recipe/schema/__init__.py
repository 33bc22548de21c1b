"""The fields of a recipe and what is known of each: strict, frozen, torch-free."""
