"""Raw layouts to manifests: one row per image with its split, labels, mask or report."""
