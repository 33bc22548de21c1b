"""Judging models: text.py scores texts, rows.py and predictions.py the rows of an objective, scores/ tells metrics of whole sets,
gate.py decides whether they are good enough.
"""
