"""Judging models: text.py scores texts, gate.py decides whether the scores are good enough."""
