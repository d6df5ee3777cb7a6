"""Request rates of a branch, from what each node counted by minute."""

import json
from collections.abc import Mapping
from typing import Any

RATE_MINUTES = 10
MOST_BYTES = 16_384


def rate(requests: int, now: float) -> float:
    """Requests a second: so many in the RATE_MINUTES minutes that end with the present one, at `now` (epoch)."""
    return requests / ((RATE_MINUTES - 1) * 60 + now % 60)


def recent(minutes: Mapping[int, Mapping[str, int]], now: float) -> int:
    """Requests of all outcomes in those RATE_MINUTES minutes."""
    first = int(now // 60) - RATE_MINUTES + 1
    return sum(sum(counts.values()) for minute, counts in minutes.items() if minute >= first)


def written(minutes: Mapping[int, Mapping[str, int]]) -> bytes:
    """As JSON, the newest minutes that fit into MOST_BYTES."""
    newest = dict(sorted(minutes.items())[-64:])
    return json.dumps(newest, separators=(",", ":")).encode()[:MOST_BYTES]


def read(text: bytes) -> dict[int, dict[str, int]]:
    """Raises ValueError for what `written` does not write."""
    try:
        said = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if isinstance(said, dict):
        return {int(minute): _counts(counts) for minute, counts in said.items()}
    raise ValueError("not minutes")


def _counts(said: Any) -> dict[str, int]:
    if not isinstance(said, dict) or not all(type(count) is int and 0 <= count < 1 << 40 for count in said.values()):
        raise ValueError("not counts")
    return said
