"""Pages of lists: sizes with bounds, and tokens that are opaque to the caller and checked when they come back."""

import base64
import binascii
import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from deltaic.errors import InvalidArgument

_IN_MEMORY = "memory"
DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000
_MAX_TOKEN = 2_000

T = TypeVar("T")


class BadPage(InvalidArgument):
    """A page size or page token that this list never gave out."""

    reason = "BAD_PAGE"


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items of a list, and the token of the next page; empty on the last one."""

    items: list[T]
    next_token: str


def page_of(items: Sequence[T], key: Callable[[T], str], size: int, token: str) -> Page[T]:
    """The page after `token` of a list in memory, in the order of `key`, which is unique. Raises BadPage."""
    size = page_size(size)
    ordered = sorted(items, key=key)
    after = decode_token(token, _IN_MEMORY, str)
    start = bisect_right(ordered, str(after[0]), key=key) if after else 0
    chosen = ordered[start : start + size]
    more = len(ordered) > start + size
    return Page(chosen, encode_token(_IN_MEMORY, key(chosen[-1])) if more else "")


def page_size(asked: int) -> int:
    """1 to 1,000; 0 means 100. Raises BadPage."""
    if not 0 <= asked <= MAX_PAGE_SIZE:
        raise BadPage(f"bad page size {asked}", hint=f"ask for 1 to {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}")
    return asked or DEFAULT_PAGE_SIZE


def encode_token(listing: str, *position: str | int) -> str:
    """The token of the page that starts after `position`; `listing` says which list, and of what."""
    return base64.urlsafe_b64encode(json.dumps([listing, *position]).encode()).decode().rstrip("=")


def decode_token(token: str, listing: str, *kinds: type) -> tuple[str | int, ...] | None:
    """The position in a token of this very list, of values of `kinds`; None when the token is empty. Raises BadPage."""
    if not token:
        return None
    bad = BadPage("this page token is not one of this list", hint="take the token from the last answer, unchanged")
    if len(token) > _MAX_TOKEN:
        raise bad
    try:
        parts = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
        json.dumps(parts, ensure_ascii=False).encode()  # refuses half a surrogate pair, which no database takes
    except (ValueError, binascii.Error, RecursionError):
        raise bad from None
    if not isinstance(parts, list) or len(parts) != 1 + len(kinds) or parts[0] != listing:
        raise bad
    for part, kind in zip(parts[1:], kinds, strict=True):
        if type(part) is not kind or (isinstance(part, int) and not 0 <= part < 1 << 63):
            raise bad
    return tuple(parts[1:])
