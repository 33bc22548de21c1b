"""Several runs in one command: the stages of a recipe and the trials of a sweep."""
