"""The computations of single commands: average, replay, verify, inspect, env, recipes --fetch, --dry-run."""
