"""Judging models: text.py scores texts, gate.py decides whether the scores are good enough."""

TEXT_METRICS = ("loss", "perplexity", "bits_per_byte", "target_tokens")  # of a language model on texts
