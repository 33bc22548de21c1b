"""File formats: each is read by a generator of records with one record in memory at a time."""
