"""How good predictions are, in numpy alone: metrics as mergeable sums, bounds, slices, calibration."""
