"""One run, from its locked folder to its result."""
