"""Metrics of a model, confidence bounds, slices and calibration: functions of arrays, with numpy and pyarrow only."""
