"""Continuing text with a causal language model. decoding.py works on ids, complete.py on text."""
