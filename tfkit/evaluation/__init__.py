"""Evaluation of models: text_scores.py scores texts, row_scores.py an objective's rows.
judging.py scores rows by likelihood.py (minimal pairs, few-shot prompts); lm_eval.py adapts lm-evaluation-harness.
"""
