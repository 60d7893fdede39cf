"""Reproduction of MedIM and CMITM as one auditable workflow."""
