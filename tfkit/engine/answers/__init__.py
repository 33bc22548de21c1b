"""A checkpoint at work: predictions of rows, and texts for prompts."""
