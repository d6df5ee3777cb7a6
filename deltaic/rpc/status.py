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
    text = call.details() or "no details"
    if code is Code.UNAVAILABLE:
        return RemoteError(
            code, "UNREACHABLE", f"no answer from {target}", hint="is it running, and is the address right?", cause=text
        )
    if code is Code.DEADLINE_EXCEEDED:
        return RemoteError(code, "DEADLINE_EXCEEDED", f"{target} did not answer in time", cause=text)
    return RemoteError(code, code.value, f"{target}: {text}")


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
