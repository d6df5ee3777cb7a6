"""Request rates of a branch, from the counts by minute."""

RATE_MINUTES = 10


def rate(requests: int, now: float) -> float:
    """Requests a second: so many in the RATE_MINUTES minutes that end with the present one, at `now` (epoch)."""
    return requests / ((RATE_MINUTES - 1) * 60 + now % 60)
