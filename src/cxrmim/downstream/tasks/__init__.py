"""Downstream tasks, one file each: ``Options``, ``run`` (predict) and ``measure`` (score)."""
