"""Errors of the device.

FailedPrecondition
└── KeptOnDevice                  a request that must stay asks for a model that is not here; its reason says why
Internal
└── NotAnOutbound                 something other than what egress built was about to be sent
Unavailable
├── DecisionLogFailed             the decision log cannot be written, so nothing is sent
├── UpstreamCut                   the node above ended its answer in the middle
└── UpstreamSlow                  the node above did not begin to answer while there was time to answer here
InvalidArgument
└── ListensToNetwork              the address to listen on can be reached from other machines
"""

from deltaic.errors import Code, FailedPrecondition, Internal, InvalidArgument, Unavailable


class KeptOnDevice(FailedPrecondition):
    reason = "SENSITIVE_NEEDS_LOCAL_MODEL"


class NotAnOutbound(Internal):
    reason = "NOT_AN_OUTBOUND"


class DecisionLogFailed(Unavailable):
    reason = "DECISION_LOG_FAILED"


class UpstreamCut(Unavailable):
    reason = "UPSTREAM_CUT"


class UpstreamSlow(Unavailable):
    reason = "UPSTREAM_SLOW"


class ListensToNetwork(InvalidArgument):
    reason = "LISTENS_TO_NETWORK"


CALLERS_FAULT = frozenset({Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.NOT_FOUND, Code.CANCELLED})
