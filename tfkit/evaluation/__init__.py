"""Evaluation of models: text_scores.py of texts, row_scores.py and predictions.py of an objective's rows, set_metrics.py and bootstrap.py
of whole sets; gate.py compares metrics with limits. judging.py asks about rows through likelihood.py (judges.py: minimal pairs, few-shot
prompts); lm_eval.py is the adapter for lm-evaluation-harness.
"""
