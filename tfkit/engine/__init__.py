"""Turn a recipe into a run, independently of the command line: `tfkit.pretrain` in a notebook and `tfkit pretrain` in a shell call it."""
