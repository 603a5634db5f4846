"""Estimates apparent age and gender from face images at archive scale, on Ray."""

__version__ = "0.1.0"
