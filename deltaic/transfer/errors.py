"""Errors of transfer.

DataLoss
├── SourceLied            every source keeps sending bytes that do not match their digest
└── BadFrame              a stream that breaks the contract: wrong order, too many bytes, a compression bomb
NotFound
└── SourceLacks           no source holds a chunk that the manifest names
Unavailable
└── LineLost              many attempts in a row brought nothing; what came before is kept
Aborted
└── FileChanged           the file is not what it was when its manifest was built
InvalidArgument
├── BadChannel            a channel whose parts contradict each other
├── BadLimits             limits of a node that are no numbers, or negative
├── BadRange              a read that names nothing that can be sent
├── BadRateSchedule       a rate limit that nobody can read
└── BadWrite              a write whose frames do not make the blob that they name
Unimplemented
└── ReadOnlyNode          this node takes no writes
ResourceExhausted
└── DeltaTooLarge         a delta that would not pay
FailedPrecondition
└── DeltaFailed           a delta could not be made, or not be followed
"""

from deltaic.errors import (
    Aborted,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)


class SourceLied(DataLoss):
    reason = "SOURCE_LIED"


class BadFrame(DataLoss):
    reason = "BAD_FRAME"


class SourceLacks(NotFound):
    reason = "SOURCE_LACKS_CHUNK"


class LineLost(Unavailable):
    reason = "LINE_LOST"


class FileChanged(Aborted):
    reason = "FILE_CHANGED"


class BadChannel(InvalidArgument):
    reason = "BAD_CHANNEL"


class BadLimits(InvalidArgument):
    reason = "BAD_LIMITS"


class BadRange(InvalidArgument):
    reason = "BAD_RANGE"


class BadRateSchedule(InvalidArgument):
    reason = "BAD_RATE_SCHEDULE"


class BadWrite(InvalidArgument):
    reason = "BAD_WRITE"


class ReadOnlyNode(Unimplemented):
    reason = "READ_ONLY_NODE"


class DeltaTooLarge(ResourceExhausted):
    reason = "DELTA_TOO_LARGE"


class DeltaFailed(FailedPrecondition):
    reason = "DELTA_FAILED"
