"""Objectives: each encodes rows and computes a loss and metrics. registry.py constructs the one that a recipe's objective.kind names."""
