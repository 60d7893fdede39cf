"""Manifests to arrays: uint8 images and masks, tokenised reports."""
