"""The library's functions that do not train (api.py has the others), and the isolation of each call."""
