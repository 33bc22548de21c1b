"""The order of rows and the batches of a step: pure functions of the seed, the epoch and the step."""
