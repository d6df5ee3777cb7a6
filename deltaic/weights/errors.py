"""Errors of weights.

InvalidArgument
├── BadModelFile          a file that we refuse to publish
│   ├── NotGGUF           not a GGUF file, or of a version or byte order that we do not read
│   ├── Truncated         the file ends before what it declares
│   └── BadLayout         a GGUF file that contradicts itself or its specification
├── BadManifest           bytes that are not a manifest, or a manifest that contradicts itself
├── BadDelta              bytes that are not a delta, or a delta that contradicts itself
├── BadPieces             a folder without an index of pieces, or an index that contradicts itself
└── BadDigest             a digest that does not parse
AlreadyExists
└── NameTaken             something else is where pieces, or the file joined of them, should be
FailedPrecondition
└── WrongBase             a delta from another file than the one that it is applied to
Aborted
└── PiecesBusy            somebody else splits into this folder, or joins into this file
Unimplemented
├── UnknownDelta          a delta of a version, or with a codec, that this program does not know
└── UnknownPieces         an index of pieces of a version that this program does not know
DataLoss
├── PiecesUnusable        pieces that are missing, or not what the index says
└── DigestMismatch        bytes that are not what their digest names
"""

from deltaic.errors import Aborted, AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, Unimplemented


class BadModelFile(InvalidArgument):
    reason = "BAD_MODEL_FILE"


class NotGGUF(BadModelFile):
    reason = "NOT_GGUF"


class Truncated(BadModelFile):
    reason = "MODEL_FILE_TRUNCATED"


class BadLayout(BadModelFile):
    reason = "BAD_LAYOUT"


class BadManifest(InvalidArgument):
    reason = "BAD_MANIFEST"


class BadDelta(InvalidArgument):
    reason = "BAD_DELTA"


class BadPieces(InvalidArgument):
    reason = "BAD_PIECES"


class NameTaken(AlreadyExists):
    reason = "NAME_TAKEN"


class WrongBase(FailedPrecondition):
    reason = "WRONG_BASE"


class PiecesBusy(Aborted):
    reason = "PIECES_BUSY"


class UnknownDelta(Unimplemented):
    reason = "UNKNOWN_DELTA"


class UnknownPieces(Unimplemented):
    reason = "UNKNOWN_PIECES"


class PiecesUnusable(DataLoss):
    reason = "PIECES_UNUSABLE"


class BadDigest(InvalidArgument):
    reason = "BAD_DIGEST"


class DigestMismatch(DataLoss):
    reason = "DIGEST_MISMATCH"
