"""A center, as a program of its own, that kills itself with SIGKILL in the middle of a collection.

    dying_center.py PLACE COUNT FLAGS...

PLACE is `remove` (inside the transaction that removes revisions), `removed` (right after it is committed) or `delete`
(a blob was just deleted); COUNT says at which time it comes there.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from obstore.store import LocalStore

from center import library
from center.__main__ import main

PLACES: dict[str, tuple[Any, str]] = {
    "remove": (library, "_remove"),
    "removed": (library.Library, "collect"),
    "delete": (LocalStore, "delete"),
}


def dying(call: Callable[..., Any], count: int) -> Callable[..., Any]:
    left = count

    def wrapped(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        done = call(*arguments, **named)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    return wrapped


if __name__ == "__main__":
    place, count, *flags = sys.argv[1:]
    owner, name = PLACES[place]
    setattr(owner, name, dying(getattr(owner, name), int(count)))
    sys.exit(main(flags))
