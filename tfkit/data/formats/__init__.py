"""File formats, each as a generator of records that holds one record at a time."""
