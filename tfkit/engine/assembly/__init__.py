"""Assemble a training from a recipe: its data, base model, companions (such as a teacher), optimizer and loader."""
