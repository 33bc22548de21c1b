"""Training with several processes (ranks). With a single process, everything here is an identity."""
