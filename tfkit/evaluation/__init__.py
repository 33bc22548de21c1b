"""Judging models: text.py scores texts, rows.py the rows of an objective, gate.py decides whether the scores are good enough."""
