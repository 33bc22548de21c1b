"""From YAML and key=value to a checked recipe, with the place of every error."""
