"""Training: the loop, the step, the optimizers, the schedule, mixed precision, and the memory and the FLOPs of a step."""
