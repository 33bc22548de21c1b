"""Commands with several processes (ranks): their start, their connection, their collectives, and the sharding of weights."""
