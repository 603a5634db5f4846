"""The only Ray code: one module per job, and what they share."""
