"""How often a request was passed on between the edges of a branch: at most once."""

from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

HOPS_KEY = "deltaic-hops"
PASSED_ON = ((HOPS_KEY, "1"),)

_hops: ContextVar[bool] = ContextVar("hops", default=False)


def enter(metadata: Iterable[tuple[str, Any]] | None) -> None:
    """Bind what a call's metadata says for the rest of its task; words that are no number count as passed on."""
    _hops.set(any(key == HOPS_KEY and value not in ("", "0") for key, value in metadata or ()))


def passed_on() -> bool:
    """Whether a neighbour passed on the request that is being served."""
    return _hops.get()
