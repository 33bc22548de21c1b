"""File formats: a generator reads the records of each, with only a few records in memory at a time."""
