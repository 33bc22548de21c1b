"""Evaluation of models: text_scores.py scores texts, row_scores.py scores the rows of an objective, and judging.py scores minimal
pairs and few-shot prompts by the likelihood of texts (likelihood.py). lm_eval.py adapts tfkit's models to lm-evaluation-harness.
"""
