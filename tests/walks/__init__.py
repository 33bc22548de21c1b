"""Random walks: whole workflows drawn from a seed, run as processes, and checked against the invariants of every workflow.

    drawing   scenario (data: files, recipes, commands)  ->  running (a fork for each command)  ->  invariants  ->  shrinking

`python -m walks SEED` in this folder's parent prints a walk and its results.
"""
