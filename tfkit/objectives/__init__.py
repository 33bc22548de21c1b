"""Objectives: the encoding of rows, the loss, and the metrics. Each objective is one file; registry.py constructs them by kind."""
