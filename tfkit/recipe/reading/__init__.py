"""Reading of YAML files and key=value arguments into a checked recipe; an error in a file has its position there."""
