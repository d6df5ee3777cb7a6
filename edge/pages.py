"""Pages of lists that are held in memory: sizes with bounds, and tokens that are opaque to the caller."""

import base64
import binascii
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from edge.errors import BadPage

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items of a list, and the token of the next page; empty on the last one."""

    items: list[T]
    next_token: str


def page_of(items: Sequence[T], key: Callable[[T], str], size: int, token: str) -> Page[T]:
    """The page after `token` of the items in the order of `key`, which is unique. Size 0 means 100. Raises BadPage."""
    if not 0 <= size <= MAX_PAGE_SIZE:
        raise BadPage(f"bad page size {size}", hint=f"ask for 1 to {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}")
    size = size or DEFAULT_PAGE_SIZE
    ordered = sorted(items, key=key)
    start = bisect_right(ordered, _decoded(token), key=key) if token else 0
    chosen = ordered[start : start + size]
    more = len(ordered) > start + size
    return Page(chosen, base64.urlsafe_b64encode(key(chosen[-1]).encode()).decode() if more else "")


def _decoded(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise BadPage("not a page token", hint="take the token from the last answer, unchanged") from None
