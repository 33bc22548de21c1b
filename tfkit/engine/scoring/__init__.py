"""Evaluation of a checkpoint: by text, by row, by likelihood, by rollout."""
