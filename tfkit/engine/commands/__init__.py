"""The computations of single commands: average, export, push, replay, verify, inspect, env, recipes --fetch, --dry-run."""
