"""The report stop: records -> tables, figures and one static page.

Only records are read, never artifacts, so that a bare clone remakes everything byte for byte.
"""
