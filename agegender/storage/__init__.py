"""Local disk and s3://: list, read, write whole-or-absent."""
