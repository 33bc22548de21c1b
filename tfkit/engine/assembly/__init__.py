"""Assemble a training from a recipe: its data, base model, companions, optimizer and loader."""
