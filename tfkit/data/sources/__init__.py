"""Sources of rows: local files and archives, data sets of the Hugging Face Hub, the Python standard library."""
