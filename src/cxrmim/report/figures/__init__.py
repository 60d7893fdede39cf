"""Figures: one module each, named like its block of the grid.

A module holds a `LAYOUT` (how the grid's block becomes cells) and `draw`; one that draws something
other than cells also has `data`, the rows of its csv. Nothing heavy is imported at the top level.
"""
