"""Errors of the edge.

InvalidArgument
└── BadPage               a page size or page token that this node never gave
FailedPrecondition
├── DataFolderInUse       another process works in the data folder
└── SensitiveNotAllowed   a request labelled sensitive arrived at a node that may not see it
NotFound
└── NotMirrored           a channel, model or revision that this edge does not hold
ResourceExhausted
└── HotSetFull            the memory budget is taken by models that are pinned or in use
Unavailable
├── CenterUnreachable     only the center could answer, and the line is cut
├── EdgeStopping          this edge shuts down: ask again
└── IndexUnreachable      the index does not answer at start
"""

from deltaic.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted, Unavailable


class BadPage(InvalidArgument):
    reason = "BAD_PAGE"


class DataFolderInUse(FailedPrecondition):
    reason = "DATA_FOLDER_IN_USE"


class SensitiveNotAllowed(FailedPrecondition):
    reason = "SENSITIVE_NOT_ALLOWED"


class NotMirrored(NotFound):
    reason = "NOT_HELD_HERE"


class HotSetFull(ResourceExhausted):
    reason = "HOT_SET_FULL"


class CenterUnreachable(Unavailable):
    reason = "CENTER_UNREACHABLE"


class EdgeStopping(Unavailable):
    reason = "EDGE_STOPPING"


class IndexUnreachable(Unavailable):
    reason = "INDEX_UNREACHABLE"
