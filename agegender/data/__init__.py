"""Bytes, arrays and tables: labels, decoding, duplicates, splits, statistics, drawn faces. No Ray, no torch, no network."""
