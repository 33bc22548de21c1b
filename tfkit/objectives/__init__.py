"""Objectives: what to do to a row, which loss it gives. One file an objective."""
