"""How good a model is, in numbers: metrics, bounds, slices, calibration. numpy and pyarrow schemas only, arrays in, values out."""
