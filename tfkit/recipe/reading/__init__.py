"""Reading of YAML and key=value into a checked recipe, with the place of every error."""
