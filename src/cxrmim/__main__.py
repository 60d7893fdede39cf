"""`python -m cxrmim`: the same as the `cxrmim` command."""

from cxrmim.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
