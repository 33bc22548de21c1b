"""From the columns of a record to the roles of a row."""
