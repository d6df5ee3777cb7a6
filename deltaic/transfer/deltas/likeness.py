"""Whether a delta between two revisions is worth trying: found out from their manifests, without a byte of theirs."""

from collections.abc import Iterable, Sequence

from deltaic.weights.digest import Digest
from deltaic.weights.layout import SegmentKind
from deltaic.weights.manifest import Manifest

WORTH_BYTES = 256 << 10
"""An update that brings less than this in chunks is left to chunks."""
PAYS_BELOW = 0.7
"""A delta with more than this share of the bytes of the chunks that it saves is not kept."""
_ALIKE_SHARE = 0.9

_Shape = tuple[str, tuple[int, ...]]


def chunk_bytes_between(source: Manifest, target: Manifest) -> int:
    """Bytes of the chunks that a holder of `source` would fetch for `target`."""
    return sum(digest.size for digest in target.unique.keys() - source.unique.keys())


def most_bytes(source: Manifest, target: Manifest) -> int:
    """What a delta may have and still pay; 0 where none is worth trying."""
    between = chunk_bytes_between(source, target)
    if between < WORTH_BYTES or not look_alike(source, target):
        return 0
    return int(PAYS_BELOW * between)


def look_alike(source: Manifest, target: Manifest) -> bool:
    """Whether nearly all weights of `target` have a tensor of the same name and shape in `source`, of any type."""
    if source.file.architecture != target.file.architecture:
        return False
    known = set(_shapes(source))
    weights = _shapes(target)
    found = sum(count for shape, count in weights.items() if shape in known)
    return found >= _ALIKE_SHARE * sum(weights.values()) > 0


def bases(target: Manifest, held: Sequence[Manifest]) -> list[Manifest]:
    """Of what is held, what a delta to `target` may start from: the likeliest to be small first, else as given."""
    alike = [each for each in held if each.digest != target.digest and look_alike(each, target)]
    return sorted(alike, key=lambda each: _closeness(each, target), reverse=True)


def _closeness(source: Manifest, target: Manifest) -> tuple[int, int]:
    """Bytes of weights in the same types, then bytes of chunks that are the same."""
    types = {(segment.name, segment.ggml_type) for segment in source.file.segments}
    same_type = sum(segment.length for segment in target.file.segments if (segment.name, segment.ggml_type) in types)
    return same_type, _size(source.unique.keys() & target.unique.keys())


def _shapes(manifest: Manifest) -> dict[_Shape, int]:
    """How many weights each tensor has."""
    counts: dict[_Shape, int] = {}
    for segment in manifest.file.segments:
        if segment.kind is SegmentKind.TENSOR:
            elements = 1
            for dimension in segment.shape:
                elements *= dimension
            counts[segment.name, segment.shape] = elements
    return counts


def _size(digests: Iterable[Digest]) -> int:
    return sum(digest.size for digest in digests)
