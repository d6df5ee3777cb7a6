"""Which prompt beginnings the workers of this node have read of late."""

from collections import OrderedDict

from deltaic.names import RevisionName

MAX_DIGESTS = 512
MAX_REVISIONS = 64


class PrefixBook:
    """The last MAX_DIGESTS digests of each of the last MAX_REVISIONS revisions."""

    def __init__(self) -> None:
        self._digests: OrderedDict[RevisionName, OrderedDict[str, None]] = OrderedDict()

    def read(self, revision: RevisionName, digests: tuple[str, ...]) -> None:
        """The worker of a revision has read a prompt with these digests."""
        if not digests:
            return
        seen = self._digests.setdefault(revision, OrderedDict())
        self._digests.move_to_end(revision)
        for digest in digests:
            seen[digest] = None
            seen.move_to_end(digest)
        while len(seen) > MAX_DIGESTS:
            seen.popitem(last=False)
        while len(self._digests) > MAX_REVISIONS:
            self._digests.popitem(last=False)

    def of(self, revision: RevisionName) -> tuple[str, ...]:
        """The newest last."""
        return tuple(self._digests.get(revision, ()))
