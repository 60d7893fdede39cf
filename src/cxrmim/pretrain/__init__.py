"""Pretraining: shards -> checkpoint. One file a method, shared nets and losses in `parts`."""
