"""Errors in OpenAI's shape: {"error": {"message", "type", "param", "code"}}, with what else we know below `deltaic`."""

import json

from deltaic.errors import DeltaicError
from deltaic.rpc.http_status import http_status

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
    504: "timeout_error",
}


def error_body(error: DeltaicError, status: int) -> bytes:
    """The body that an error is answered with."""
    kind = _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
    facts = {key: value for key, value in error.metadata.items() if key != "param"}
    shape = {
        "message": str(error),
        "type": kind,
        "param": error.metadata.get("param") or error.metadata.get("field"),
        "code": error.reason.lower(),
        "deltaic": {"code": error.code, "reason": error.reason, **facts},
    }
    return json.dumps({"error": shape}).encode()


def error_event(error: DeltaicError) -> bytes:
    """The event that ends a stream."""
    return b"event: error\ndata: " + error_body(error, http_status(error)) + b"\n\n"
