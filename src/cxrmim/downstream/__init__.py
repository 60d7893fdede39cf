"""Downstream stop: checkpoint -> predictions and metrics.

A run is weights x dataset x task x percent of labels x seed. Each task is one file of ``tasks``.
"""
