"""The run folder: its lock, receipt, metrics and signals, and the forms of durable writing that they rest on. Free of torch."""
