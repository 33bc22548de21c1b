"""Judging models: text.py scores texts, rows.py and predictions.py the rows of an objective, scores/ tells metrics of whole sets,
gate.py decides whether they are good enough. judging.py asks about rows through likelihood.py: minimal pairs, choices behind examples in a
prompt; lm_eval.py is the door for lm-evaluation-harness.
"""
