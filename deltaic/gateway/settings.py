"""What an operator may choose about the HTTP face of a node: the types of two settings."""

from typing import Annotated

from pydantic import AfterValidator, ByteSize, Field

from deltaic.runtime.addresses import check_address

MOST_BODY_BYTES = ByteSize(8 << 20)


def _to_listen_on(text: str) -> str:
    return check_address(text, listening=True) if text.strip() else ""


HttpAddress = Annotated[str, AfterValidator(_to_listen_on)]
"""Where a node speaks HTTP: HOST:PORT or unix:/PATH; empty is nowhere."""

BodyBytes = Annotated[ByteSize, Field(ge=1024, le=1 << 30)]
"""Most bytes of one request."""
