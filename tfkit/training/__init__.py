"""Training: one loop, one step, the optimizers, the schedule, and the checkpoints on disk."""
