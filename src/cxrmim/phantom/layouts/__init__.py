"""One module a data set, found by its name, each with `write(root, params, workers)`."""
