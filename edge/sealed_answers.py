"""An answer as bytes that rest in a cache, in memory or where others can write.

    answer   = zstandard(body)            body: the GenerateResponses, each after its length (4 bytes, big-endian)
    sealed   = "DA1" + HMAC-SHA256(key, place + answer) + answer

A sealed answer is only believed with the right HMAC over the place where it was found (cache key and revision), so that
neither an invented nor a moved one is; it is checked before anything is decompressed.
"""

import hmac
from collections.abc import Iterable, Sequence

import zstandard
from google.protobuf.message import DecodeError

from deltaic.v1 import inference_pb2

MOST_BODY_BYTES = 1 << 20
_MAGIC = b"DA1"
_TAG_BYTES = 32
_LENGTH_BYTES = 4


def pressed(pieces: Iterable[inference_pb2.GenerateResponse]) -> bytes:
    """Compress the messages of an answer."""
    body = bytearray()
    for piece in pieces:
        message = piece.SerializeToString(deterministic=True)
        body += len(message).to_bytes(_LENGTH_BYTES, "big") + message
    return zstandard.ZstdCompressor(level=3).compress(bytes(body))


def unpressed(answer: bytes) -> Sequence[inference_pb2.GenerateResponse] | None:
    """The messages; None for bytes that are no answer of at most MOST_BODY_BYTES."""
    try:
        parameters = zstandard.get_frame_parameters(answer)
        if not 0 < parameters.content_size <= MOST_BODY_BYTES:
            return None
        return _messages(zstandard.ZstdDecompressor().decompress(answer, max_output_size=MOST_BODY_BYTES))
    except (zstandard.ZstdError, DecodeError):
        return None


def sealed(answer: bytes, key: bytes, place: str) -> bytes:
    return _MAGIC + hmac.digest(key, place.encode() + answer, "sha256") + answer


def unsealed(value: bytes, key: bytes, place: str) -> bytes | None:
    """The answer; None for what was not sealed with this key for this place."""
    magic, tag, answer = (
        value[: len(_MAGIC)],
        value[len(_MAGIC) : len(_MAGIC) + _TAG_BYTES],
        value[len(_MAGIC) + _TAG_BYTES :],
    )
    expected = hmac.digest(key, place.encode() + answer, "sha256")
    return answer if magic == _MAGIC and hmac.compare_digest(tag, expected) else None


def _messages(body: bytes) -> Sequence[inference_pb2.GenerateResponse] | None:
    messages, at = [], 0
    while at < len(body):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(body[at:start], "big")
        if at > len(body):
            return None
        messages.append(inference_pb2.GenerateResponse.FromString(body[start:at]))
    return messages
