"""Commands that use a checkpoint: evaluate, predict, generate and embed; and the attention weights of a text."""
