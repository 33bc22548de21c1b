"""Objectives: how a row is encoded, which loss it gives, which metrics judge it. One file an objective; registry.py has them by kind."""
