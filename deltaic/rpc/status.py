"""Errors to `google.rpc.Status` and back: the only place that knows both sides.

A status carries one `google.rpc.ErrorInfo`: reason, domain "deltaic", metadata. A hint for people, where there is one,
is the metadata's key `hint`.
"""

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from deltaic.errors import Code, DeltaicError

DOMAIN = "deltaic"
STATUS_KEY = "grpc-status-details-bin"
_MOST_BYTES = 1_000
_MOST_MESSAGE = "4 MiB"  # what gRPC takes unless told otherwise, and nobody here tells it
_NO_NODE = "is this a Deltaic node?"


class RemoteError(DeltaicError):
    """An error that another node answered with; it keeps that node's code and reason when it is passed on."""

    def __init__(self, code: Code, reason: str, message: str, *, hint: str = "", **metadata: str) -> None:
        super().__init__(message, hint=hint, **metadata)
        self.code = code  # type: ignore[misc]  # as it was answered, not as this class says
        self.reason = reason  # type: ignore[misc]


def to_status(error: DeltaicError) -> Status:
    """The status that a server answers with."""
    facts = error.metadata | ({"hint": error.hint} if error.hint else {})
    info = ErrorInfo(reason=error.reason, domain=DOMAIN, metadata={key: _short(text) for key, text in facts.items()})
    detail = Any()
    detail.Pack(info)
    return Status(code=grpc.StatusCode[error.code].value[0], message=_short(error.message), details=[detail])


def _short(text: str) -> str:
    """A status travels in a trailer of 8 KiB, twice; a longer one would arrive as another error."""
    raw = text.encode("utf-8", "replace")
    return text if len(raw) <= _MOST_BYTES else raw[:_MOST_BYTES].decode("utf-8", "ignore") + "..."


def from_rpc_error(error: grpc.RpcError, target: str) -> DeltaicError:
    """What a failed call means. `target` names the other side for people, for example "center 10.0.0.1:7400"."""
    call: grpc.aio.AioRpcError = error  # type: ignore[assignment]  # every error of grpc.aio is one
    code = Code(call.code().name) if call.code().name in Code.__members__ else Code.UNKNOWN
    for key, value in call.trailing_metadata() or ():
        if key == STATUS_KEY and isinstance(value, bytes):
            remote = _unpack(code, value)
            if remote:
                return remote
    return _without_facts(code, " ".join((call.details() or "").split()), target)


def _without_facts(code: Code, text: str, target: str) -> RemoteError:
    """What an error means that carries nothing of ours: gRPC itself made it, or something that is no node."""
    lower = text.lower()
    foreign = "http2 header" in lower or "parsing http/2" in lower
    reason, message, hint = code.value, f"{target}: {_short(text) or 'no details'}", _NO_NODE
    if code is Code.UNAVAILABLE:
        reason, message = "UNREACHABLE", f"no answer from {target}"
        hint = _NO_NODE if foreign else "is it running, and is the address right?"
    elif code is Code.DEADLINE_EXCEEDED:
        message, hint = f"{target} did not answer in time", ""
    elif code is Code.UNIMPLEMENTED and not foreign:
        message, hint = f"{target} does not offer this", "is it the right node? ask the center or an edge"
    elif code is Code.RESOURCE_EXHAUSTED and "message larger than max" in lower:
        what = f"the answer of {target}" if lower.startswith("client") else f"the request to {target}"
        reason, message, hint = "TOO_LARGE", f"{what} is too large: at most {_MOST_MESSAGE}", ""
    elif code is Code.NOT_FOUND and not text:
        message, hint = f"{target} has no such service", "is it a node of another role?"
    return RemoteError(code, reason, message, hint=hint, cause=_short(text) or "no details")


def _unpack(code: Code, serialised: bytes) -> RemoteError | None:
    try:
        status = Status.FromString(serialised)
    except DecodeError:
        return None
    for detail in status.details:
        info = ErrorInfo()
        if detail.Unpack(info):
            metadata = dict(info.metadata)
            error = RemoteError(code, info.reason, status.message, hint=metadata.pop("hint", ""))
            error.metadata = metadata  # its keys are the other side's choice: no names of arguments
            return error
    return None
