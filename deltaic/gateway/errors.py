"""Errors of the gateway.

InvalidArgument
├── BadBody               the body is not JSON, or not the object that the route takes; `param` names the field
├── NotJsonContent        the request does not say that its body is JSON
├── BodyTooLarge          the body has more bytes than this gateway takes
└── ContentNotText        a picture, a sound or a file for a model that reads text
NotFound
├── NoSuchRoute           a path that this gateway does not answer
└── ModelNotListed        a model that this node does not serve
Unimplemented
└── MethodNotAllowed      the path is right and the method is not
PermissionDenied
└── ForeignHost           a page in a browser was tricked into calling a gateway of this machine
ResourceExhausted
└── GatewayBusy           too many requests, or bytes of them, are open at once
Unavailable
├── GatewayStopping       this node is stopping: ask again
└── AnswerCut             an answer ended without saying how
DeadlineExceeded
└── OutOfTime             the deadline passed before the answer was complete
ClientGone                the client went away; nobody is there to be told
"""

from deltaic.errors import (
    Code,
    DeadlineExceeded,
    DeltaicError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)


class BadBody(InvalidArgument):
    reason = "BAD_BODY"


class NotJsonContent(InvalidArgument):
    reason = "NOT_JSON_CONTENT"


class BodyTooLarge(InvalidArgument):
    reason = "BODY_TOO_LARGE"


class ContentNotText(InvalidArgument):
    reason = "CONTENT_NOT_TEXT"


class NoSuchRoute(NotFound):
    reason = "NO_SUCH_ROUTE"


class ModelNotListed(NotFound):
    reason = "MODEL_NOT_FOUND"


class MethodNotAllowed(Unimplemented):
    reason = "METHOD_NOT_ALLOWED"


class ForeignHost(PermissionDenied):
    reason = "FOREIGN_HOST"


class GatewayBusy(ResourceExhausted):
    reason = "GATEWAY_BUSY"


class GatewayStopping(Unavailable):
    reason = "GATEWAY_STOPPING"


class AnswerCut(Unavailable):
    reason = "ANSWER_CUT"


class OutOfTime(DeadlineExceeded):
    reason = "DEADLINE_EXCEEDED"


class ClientGone(DeltaicError):
    code, reason = Code.CANCELLED, "CLIENT_GONE"
