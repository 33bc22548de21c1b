"""Inference with a checkpoint: predictions for rows, and texts for prompts."""
