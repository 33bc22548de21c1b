"""Where a run's metrics go beside metrics.jsonl. None can stop a run, or slow it."""
