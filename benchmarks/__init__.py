"""How fast cxrmim is: `make bench` (CPU), `make bench-growth` (CPU), `make bench-gpu` (one GPU)."""
