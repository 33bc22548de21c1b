"""The engine, which turns a recipe into a run. Both `tfkit.pretrain` in a notebook and `tfkit pretrain` in a shell call it."""
