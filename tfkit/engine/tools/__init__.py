"""The commands that neither train nor use a model's answers: one file each."""
