"""Evaluation of models: text_scores.py scores texts, row_scores.py and predictions.py an objective's rows.
judging.py scores rows by likelihood.py (judges.py: minimal pairs, few-shot prompts); lm_eval.py adapts lm-evaluation-harness.
"""
