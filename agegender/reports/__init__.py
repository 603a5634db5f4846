"""Figures and HTML pages out of tables; never computes a statistic itself."""
