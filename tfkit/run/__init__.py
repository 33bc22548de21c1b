"""The run folder: its lock, run.json, metrics and checkpoints, with their files; and stop signals. Free of torch."""
