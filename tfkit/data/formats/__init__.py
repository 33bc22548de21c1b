"""File formats: a generator reads the records of each, with at most a few hundred records in memory at a time."""
