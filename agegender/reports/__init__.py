"""Charts and HTML pages from tables; computes no statistics itself."""
