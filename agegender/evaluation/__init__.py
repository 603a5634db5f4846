"""How good a model is, in numbers: metrics, bounds, slices, calibration. numpy only, arrays in, values out."""
