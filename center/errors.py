"""Errors of the center.

InvalidArgument
├── BadRequest            a field of a request that is missing, too long or malformed
├── LayoutMismatch        the manifest describes the file otherwise than the file itself
└── TrialLoadFailed       the engine refuses the file, or dies of it
NotFound
├── UnknownModel
├── UnknownRevision
├── UnknownChannel
├── UnknownTag
└── UnknownEntry          no such audit entry
AlreadyExists
├── RequestIdReused       the request id belongs to another manifest
└── TagTaken              the tag names another revision, and tags never move
FailedPrecondition
├── BlobsMissing          the manifest, or chunks that it names, are not stored here
├── StoreShared           another catalog uses this chunk store, so nobody may collect in it
├── SensitiveNotAllowed   a sensitive prompt came here, where it must not be seen
└── DatabaseUnusable      the catalog cannot be opened, read or written, or is newer than this software
Aborted
└── StaleEtag             the channel moved since the caller read it
OutOfRange                a proof that would be too long
└── SpoolGap              a node's entries that do not follow those known
ResourceExhausted
├── HotSetFull            the model does not fit beside those that are answering
└── DatabaseFull          no room for the catalog on its disk
Unavailable
├── NodeStopping          the center shuts down: watch again
├── TrialLoadUnfinished   this machine had no time, memory or process to try the file: publish it again
└── DatabaseBusy          another process holds the catalog's lock
DataLoss
├── DatabaseDamaged       the catalog's file is not whole
└── NeedsUnknown          a manifest cannot be read, so nobody knows which chunks its revision needs
"""

from deltaic.errors import (
    Aborted,
    AlreadyExists,
    Code,
    DataLoss,
    DeltaicError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)


class BadRequest(InvalidArgument):
    reason = "BAD_REQUEST"


class LayoutMismatch(InvalidArgument):
    reason = "LAYOUT_MISMATCH"


class TrialLoadFailed(InvalidArgument):
    reason = "TRIAL_LOAD_FAILED"


class UnknownModel(NotFound):
    reason = "UNKNOWN_MODEL"


class UnknownRevision(NotFound):
    reason = "UNKNOWN_REVISION"


class UnknownChannel(NotFound):
    reason = "UNKNOWN_CHANNEL"


class UnknownTag(NotFound):
    reason = "UNKNOWN_TAG"


class UnknownEntry(NotFound):
    reason = "UNKNOWN_ENTRY"


class RequestIdReused(AlreadyExists):
    reason = "REQUEST_ID_REUSED"


class TagTaken(AlreadyExists):
    reason = "TAG_TAKEN"


class BlobsMissing(FailedPrecondition):
    reason = "BLOBS_MISSING"


class StoreShared(FailedPrecondition):
    reason = "STORE_SHARED"


class SensitiveNotAllowed(FailedPrecondition):
    reason = "SENSITIVE_NOT_ALLOWED"


class DatabaseUnusable(FailedPrecondition):
    reason = "DATABASE_UNUSABLE"


class StaleEtag(Aborted):
    reason = "STALE_ETAG"


class OutOfRange(DeltaicError):
    code, reason = Code.OUT_OF_RANGE, "OUT_OF_RANGE"


class SpoolGap(OutOfRange):
    reason = "SPOOL_GAP"


class HotSetFull(ResourceExhausted):
    reason = "HOT_SET_FULL"


class NodeStopping(Unavailable):
    reason = "NODE_STOPPING"


class DatabaseFull(ResourceExhausted):
    reason = "DATABASE_FULL"


class TrialLoadUnfinished(Unavailable):
    reason = "TRIAL_LOAD_UNFINISHED"


class DatabaseBusy(Unavailable):
    reason = "DATABASE_BUSY"


class DatabaseDamaged(DataLoss):
    reason = "DATABASE_DAMAGED"


class NeedsUnknown(DataLoss):
    reason = "NEEDS_UNKNOWN"
