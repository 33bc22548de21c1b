"""Several runs by one command: the stages of a recipe, which are a chain, and the trials of a sweep."""
