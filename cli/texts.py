"""Words that come from a person or a pipe: UTF-8, or a clear refusal."""

import io
import sys

from deltaic.errors import InvalidArgument


def checked(text: str, what: str) -> str:
    """`text` as it is. Raises InvalidArgument when it holds bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what} is not UTF-8", hint="convert it first, for example with iconv") from None
    return text


def keep_foreign_bytes() -> None:
    """Let standard input pass on bytes that are not UTF-8, so that `checked` can refuse them by name."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")


def read_stdin(what: str) -> str:
    """All of standard input. Raises InvalidArgument when it is not UTF-8."""
    keep_foreign_bytes()
    return checked(sys.stdin.read(), what)
