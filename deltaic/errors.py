"""The root of every error that Deltaic raises on purpose.

    DeltaicError
    ├── InvalidArgument       the caller's input is wrong; sending it again cannot help
    │   └── BadName           a resource name that does not parse
    ├── NotFound              no such model, revision, channel, chunk or node
    ├── AlreadyExists         the name or request id is taken by something else
    ├── FailedPrecondition    the system is not in the state that the call needs
    ├── Aborted               somebody else was first (a stale etag): read again, then retry
    ├── PermissionDenied      the caller has no role for this
    ├── ResourceExhausted     a disk, a queue or a budget is full
    ├── DeadlineExceeded      no time left
    ├── Unavailable           try again: a process died, a line is cut, a node is stopping
    ├── DataLoss              stored bytes no longer match their digest
    ├── Unimplemented         this node does not do that
    └── Internal              our own mistake

Each package derives its own errors from these in its `errors.py`. An error knows its canonical code and a reason in
UPPER_SNAKE; `deltaic.rpc` maps it once to a gRPC status, the command line prints its message and hint.
"""

from enum import StrEnum
from typing import ClassVar


class Code(StrEnum):
    """Canonical codes, named as `grpc.StatusCode` names them."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    CANCELLED = "CANCELLED"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    UNKNOWN = "UNKNOWN"
    INTERNAL = "INTERNAL"


class DeltaicError(Exception):
    """An error with a code for programs, a message for people and a hint that says what to do.

    `metadata` goes into the `google.rpc.ErrorInfo` of a status; it never holds the content of a prompt.
    """

    code: ClassVar[Code] = Code.INTERNAL
    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, hint: str = "", **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.metadata = metadata

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class InvalidArgument(DeltaicError, ValueError):
    code, reason = Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"


class BadName(InvalidArgument):
    reason = "BAD_NAME"


class NotFound(DeltaicError, LookupError):
    code, reason = Code.NOT_FOUND, "NOT_FOUND"


class AlreadyExists(DeltaicError):
    code, reason = Code.ALREADY_EXISTS, "ALREADY_EXISTS"


class FailedPrecondition(DeltaicError):
    code, reason = Code.FAILED_PRECONDITION, "FAILED_PRECONDITION"


class Aborted(DeltaicError):
    code, reason = Code.ABORTED, "ABORTED"


class PermissionDenied(DeltaicError):
    code, reason = Code.PERMISSION_DENIED, "PERMISSION_DENIED"


class ResourceExhausted(DeltaicError):
    code, reason = Code.RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"


class DeadlineExceeded(DeltaicError, TimeoutError):
    code, reason = Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"


class Unavailable(DeltaicError, ConnectionError):
    code, reason = Code.UNAVAILABLE, "UNAVAILABLE"


class DataLoss(DeltaicError):
    code, reason = Code.DATA_LOSS, "DATA_LOSS"


class Unimplemented(DeltaicError):
    code, reason = Code.UNIMPLEMENTED, "UNIMPLEMENTED"


class Internal(DeltaicError):
    code, reason = Code.INTERNAL, "INTERNAL"
