"""A recipe becomes a run, without a command line: `tfkit.pretrain` in a notebook and `tfkit pretrain` in a shell are callers of it."""
