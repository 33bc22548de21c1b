"""Sources of rows: local files and archives, data sets of the hub, the Python standard library."""
