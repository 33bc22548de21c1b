"""Reading of YAML files and key=value arguments into a checked recipe; every error has its position in the file."""
