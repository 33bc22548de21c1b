"""The parts of a training, from a recipe: data, base model, companions, optimizer, loader."""
