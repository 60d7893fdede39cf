"""Nets, losses, masks, words and augmentation that methods and downstream tasks share."""
