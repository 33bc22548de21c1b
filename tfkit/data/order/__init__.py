"""The order of rows in an epoch, and the batches of each step, which depend only on the rows, the seed, and the epoch or step."""
