"""Who calls and what its headers say: tenant, deadline, sensitivity, request id.

Until callers are authenticated (`deltaic.trust.identity.Authenticator` is the seam, and it is asked for every request),
the tenant is what a client calls itself: a digest of its API key. Nobody's key is kept, sent on or logged.
"""

import hashlib
import math
import re
import uuid
from collections.abc import Mapping

from deltaic.gateway.errors import BadBody
from deltaic.v1 import inference_pb2

TIMEOUT_HEADER = "x-deltaic-timeout"
SENSITIVITY_HEADER = "x-deltaic-sensitivity"
REQUEST_ID_HEADER = "x-request-id"
MOST_SECONDS = 3_600.0

SENSITIVITIES = {
    "public": inference_pb2.SENSITIVITY_PUBLIC,
    "sensitive": inference_pb2.SENSITIVITY_SENSITIVE,
}

_TENANT_LETTERS = 16
_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")
_REQUEST_ID = re.compile(r"[!-~]{1,64}")


def tenant_of(headers: Mapping[str, str]) -> str:
    """64 bits of the SHA-256 of the bearer token, "" without one.

    Written in letters only: a device looks for numbers in all that leaves it, and a digest has some by chance.
    """
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        return ""
    digest = hashlib.sha256(key.strip().encode("utf-8", "surrogatepass")).hexdigest()
    return digest[:_TENANT_LETTERS].translate(_LETTERS)


def seconds_of(headers: Mapping[str, str], default: float) -> float:
    """Seconds that the request may take. Raises BadBody for a header that does not say."""
    text = headers.get(TIMEOUT_HEADER)
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MOST_SECONDS:
        raise BadBody(
            f"the header X-Deltaic-Timeout is {text[:40]!r}",
            hint=f"write seconds, more than 0 and at most {MOST_SECONDS:g}",
            param="X-Deltaic-Timeout",
        )
    return seconds


def sensitivity_of(headers: Mapping[str, str], in_body: str | None) -> "inference_pb2.Sensitivity.ValueType":
    """What header and body say together; where they differ, sensitive. Raises BadBody for another word."""
    said = set()
    for word in (headers.get(SENSITIVITY_HEADER), in_body):
        if word is None:
            continue
        known = SENSITIVITIES.get(word.strip().lower())
        if known is None:
            raise BadBody(
                f"the sensitivity is {word[:40]!r}", hint="write public or sensitive", param="X-Deltaic-Sensitivity"
            )
        said.add(known)
    return max(said, default=inference_pb2.SENSITIVITY_UNSPECIFIED)


def request_id_of(headers: Mapping[str, str]) -> str:
    """The id that the client gave, if it can travel in a header, else a fresh one."""
    given = headers.get(REQUEST_ID_HEADER, "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
