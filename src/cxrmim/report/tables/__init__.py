"""Tables: one module each, named like its block of the grid, holding a `LAYOUT`."""
