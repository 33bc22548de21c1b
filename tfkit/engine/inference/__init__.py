"""A checkpoint answers: evaluate, predict, generate and embed."""
