"""The run folder: its lock, run.json, metrics and checkpoints; also the handling of stop signals. This package does not import torch."""
