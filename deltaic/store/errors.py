"""Errors of the store.

InvalidArgument
├── BadRange              a read that starts beyond the blob
├── BadStoreAddress       an address at which no chunk store can be
└── ForeignChunk          a chunk that the staged revision does not contain
NotFound
├── ChunkNotFound         this store does not hold the blob
└── RevisionNotHeld       no complete file of the revision is here
AlreadyExists
└── AlreadyHeld           the revision is complete here; nothing to stage
FailedPrecondition
├── StagingClosed         a write after commit or close
├── StagingIncomplete     a commit while chunks are missing
└── DiskFailed            the disk refuses: read-only, no permission, an I/O error
Aborted
├── CollectionBusy        a collection of this store is under way already
├── StagingBusy           somebody else stages, repairs or removes this revision
└── StagingLost           the growing file was replaced by somebody else
PermissionDenied
└── StoreRefused          the object store refuses these credentials
ResourceExhausted
├── DiskFull              no room for the bytes
└── NoRoomForDelta        the deltas in use leave no room for another inside the budget
Unavailable
└── StoreUnreachable      the object store does not answer, or not sensibly
DataLoss
├── ChunkDamaged          stored bytes of a chunk no longer match their digest
└── FileMismatch          every chunk is right and the whole is not: the manifest contradicts itself
"""

from deltaic.errors import (
    Aborted,
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)


class BadRange(InvalidArgument):
    reason = "BAD_RANGE"


class BadStoreAddress(InvalidArgument):
    reason = "BAD_STORE_ADDRESS"


class ForeignChunk(InvalidArgument):
    reason = "FOREIGN_CHUNK"


class ChunkNotFound(NotFound):
    reason = "CHUNK_NOT_FOUND"


class RevisionNotHeld(NotFound):
    reason = "REVISION_NOT_HELD"


class AlreadyHeld(AlreadyExists):
    reason = "ALREADY_HELD"


class StagingClosed(FailedPrecondition):
    reason = "STAGING_CLOSED"


class StagingIncomplete(FailedPrecondition):
    reason = "STAGING_INCOMPLETE"


class DiskFailed(FailedPrecondition):
    reason = "DISK_FAILED"


class CollectionBusy(Aborted):
    reason = "COLLECTION_BUSY"


class StagingBusy(Aborted):
    reason = "STAGING_BUSY"


class StagingLost(Aborted):
    reason = "STAGING_LOST"


class StoreRefused(PermissionDenied):
    reason = "STORE_REFUSED"


class DiskFull(ResourceExhausted):
    reason = "DISK_FULL"


class NoRoomForDelta(ResourceExhausted):
    reason = "NO_ROOM_FOR_DELTA"


class StoreUnreachable(Unavailable):
    reason = "STORE_UNREACHABLE"


class ChunkDamaged(DataLoss):
    reason = "CHUNK_DAMAGED"


class FileMismatch(DataLoss):
    reason = "FILE_MISMATCH"
