"""Labels, decoding, duplicates, splits, statistics, synthetic faces: pure functions. No Ray, torch or network access."""
