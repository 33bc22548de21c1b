"""Recipes with stages and sweeps: several runs, each in a folder of its own, and one folder with the totals of all."""
