"""The calls of the library beside those that train (api.py), and what surrounds each call."""
