"""The colours of every chart, on pages and in notebooks."""

COLOURS = ("#2a7f9e", "#e0843a", "#6a9a4e", "#b25a8b", "#8a7bc8", "#7f7f7f")
"""Colour-blind safe, in order of use."""

INK = "#30383d"
GRID = "#e3e6e8"
