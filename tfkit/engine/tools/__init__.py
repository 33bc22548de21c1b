"""The commands that neither train nor answer: one file each."""
