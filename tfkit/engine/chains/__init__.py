"""Several runs by one command: the stages of a recipe, which form a chain, or the trials of a sweep."""
