"""The request for a run: its arguments, settings, inputs, checks and gates; how a run is resumed; and the totals in run.json."""
