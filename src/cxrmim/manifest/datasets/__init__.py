"""Readers, one file per dataset, found by name (see `cxrmim.manifest.contract`)."""
