"""Durations as people read them."""

UNITS = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"))


def span(seconds: float) -> str:
    """A duration in seconds up to a minute and a half, in minutes up to an hour and a half, ..."""
    for size, unit in UNITS:
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
