"""A training on many processes, the ranks: which of them this one is. With one process everything here is an identity."""
