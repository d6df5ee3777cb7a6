"""What there is to encode: a chunk of the target, and the bytes of the source that it is made from."""

from dataclasses import dataclass

from deltaic.weights.chunks import Extent
from deltaic.weights.delta.lowrank import Matrix


@dataclass(frozen=True, slots=True)
class Task:
    """A chunk to make, and where its material lies; offsets and lengths in bytes of the two files.

    `reuse` says that the bytes of the source are the chunk.
    """

    segment: int
    target: Extent
    source: Extent
    target_type: str
    source_type: str
    matrix: Matrix
    reuse: bool
