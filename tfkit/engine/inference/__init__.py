"""Use a checkpoint: evaluate, predict, generate and embed."""
