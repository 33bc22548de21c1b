"""The order of rows in an epoch, and the batches of each step: functions of the rows, the seed, and the epoch or step alone."""
