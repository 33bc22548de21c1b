"""Sources of rows: local files and archives, data sets of the Hugging Face Hub, and the source files of Python's standard library."""
