"""Training: the loop, the step, the optimizers, the schedule, and the training state of checkpoints."""
