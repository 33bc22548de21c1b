"""The run folder: its lock, receipt, metrics, signals and checkpoints. Free of torch."""
