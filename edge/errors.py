"""Errors of the edge.

FailedPrecondition
├── SensitiveNotAllowed   a request that may not come here, or may go no further than here
└── EscalationForbidden   only the center could answer, and the tenant's requests stay in the branch
NotFound
└── NotHeldHere           a channel, model or revision that this edge does not hold
ResourceExhausted
└── HotSetFull            the memory budget is taken by models that are pinned or in use
Unimplemented
└── OnlyAtCenter          a call that changes the library; an edge mirrors its reading half
Unavailable
├── CenterUnreachable     only the center could answer, and the line is cut
├── NeighbourLost         another edge was answering, or was asked to, and went away
├── NeighbourLacks        another edge was asked for a model that it has let go of
├── NotCompleteYet        a channel that this edge follows, whose first revision is still coming
├── EdgeStopping          this edge shuts down: ask again
└── IndexUnreachable      the index does not answer at start
DeadlineExceeded
└── NoTimeLeft            the deadline passed before anything could begin
"""

from deltaic.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)


class SensitiveNotAllowed(FailedPrecondition):
    reason = "SENSITIVE_NOT_ALLOWED"


class EscalationForbidden(FailedPrecondition):
    reason = "ESCALATION_FORBIDDEN"


class NotHeldHere(NotFound):
    reason = "NOT_HELD_HERE"


class HotSetFull(ResourceExhausted):
    reason = "HOT_SET_FULL"


class OnlyAtCenter(Unimplemented):
    reason = "ONLY_AT_CENTER"


class CenterUnreachable(Unavailable):
    reason = "CENTER_UNREACHABLE"


class NeighbourLost(Unavailable):
    reason = "NEIGHBOUR_LOST"


class NeighbourLacks(Unavailable):
    reason = "NEIGHBOUR_LACKS"


class NotCompleteYet(Unavailable):
    reason = "NOT_COMPLETE_YET"


class EdgeStopping(Unavailable):
    reason = "EDGE_STOPPING"


class IndexUnreachable(Unavailable):
    reason = "INDEX_UNREACHABLE"


class NoTimeLeft(DeadlineExceeded):
    reason = "DEADLINE_EXCEEDED"
