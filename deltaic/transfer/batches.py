"""Grouping blobs into streams: large enough that a round trip costs little, small enough that several are in flight."""

from collections.abc import Iterable

from deltaic.weights.digest import Digest

BATCH_BYTES = 8 << 20
BATCH_BLOBS = 64


def group(
    digests: Iterable[Digest], *, max_bytes: int = BATCH_BYTES, max_blobs: int = BATCH_BLOBS
) -> list[list[Digest]]:
    """In the order given; a batch is closed before it would pass either bound, so only a single blob may."""
    batches: list[list[Digest]] = []
    held = 0
    for digest in digests:
        if not batches or len(batches[-1]) >= max_blobs or held + digest.size > max_bytes:
            batches.append([])
            held = 0
        batches[-1].append(digest)
        held += digest.size
    return batches
