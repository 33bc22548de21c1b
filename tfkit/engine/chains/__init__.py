"""Many runs as one: stages and sweeps."""
