"""Errors to HTTP: the status of each code, and the few reasons that have a status of their own.

The sister of `deltaic.rpc.status`, which does the same for gRPC. Whoever speaks HTTP for a node takes it from here.
"""

import math

from deltaic.errors import Code, DeltaicError

HTTP_STATUS: dict[Code, int] = {
    Code.INVALID_ARGUMENT: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.FAILED_PRECONDITION: 409,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.CANCELLED: 499,
    Code.INTERNAL: 500,
    Code.DATA_LOSS: 500,
    Code.UNKNOWN: 500,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}

_BY_REASON = {
    # What must not be seen here stays forbidden however often it is sent; clients send a 409 again.
    "SENSITIVE_NOT_ALLOWED": 403,
    "ESCALATION_FORBIDDEN": 403,
    "SENSITIVE_NEEDS_LOCAL_MODEL": 403,
    # The node's fault, not that of two callers who were in each other's way.
    "WORKER_FAILED": 503,
    "METHOD_NOT_ALLOWED": 405,
    "BODY_TOO_LARGE": 413,
    "TOO_LARGE": 413,
    "NOT_JSON_CONTENT": 415,
}

RETRY_KEY = "retry_after_ms"
"""Metadata of an error: milliseconds after which trying again makes sense."""


def http_status(error: DeltaicError) -> int:
    """The status that an error is answered with."""
    return _BY_REASON.get(error.reason, HTTP_STATUS[error.code])


def retry_headers(error: DeltaicError) -> dict[str, str]:
    """`Retry-After` in whole seconds and `retry-after-ms`, where the error says when to try again."""
    try:
        milliseconds = float(error.metadata.get(RETRY_KEY, ""))
    except ValueError:
        return {}
    if not (math.isfinite(milliseconds) and milliseconds >= 0):
        return {}
    return {"retry-after": str(max(1, math.ceil(milliseconds / 1000))), "retry-after-ms": str(math.ceil(milliseconds))}
