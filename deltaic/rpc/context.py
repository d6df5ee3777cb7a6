"""What belongs to the call being served: its request id and who is calling. Follows the call through every await."""

import uuid
from contextvars import ContextVar

from deltaic.trust.identity import Identity

REQUEST_ID_KEY = "x-request-id"
NODE_KEY = "x-node"

_request_id: ContextVar[str] = ContextVar("request_id", default="")
_caller: ContextVar[Identity | None] = ContextVar("caller", default=None)


def request_id() -> str:
    """The id of the call being served, made here when nobody upstream made one."""
    if not _request_id.get():
        _request_id.set(uuid.uuid4().hex)
    return _request_id.get()


def caller() -> Identity:
    """Who is calling. Raises LookupError outside a call."""
    identity = _caller.get()
    if identity is None:
        raise LookupError("no call is being served here")
    return identity


def enter_call(identifier: str, identity: Identity) -> None:
    """Bind both for the rest of this task."""
    _request_id.set(identifier)
    _caller.set(identity)
