"""The request for a run, checked and resolved, and its record in run.json."""
