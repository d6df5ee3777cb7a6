"""Which source may bring which blob, by what they have shown: who is preferred, who is demoted, who is out."""

from collections.abc import Collection, Iterable, Sequence

from deltaic.transfer.scheduling.ledger import Blob
from deltaic.transfer.scheduling.relief import UNKNOWN_RATE
from deltaic.transfer.scheduling.score import Score

_TYPICAL_BYTES = 4 << 20
_FAR_BELOW = 1 / 8
_ENOUGH_EPOCHS = 2


class Standing:
    """The sources of one fetch beside each other. A source is its number, from 0."""

    def __init__(self, scores: Sequence[Score]) -> None:
        self._scores = scores
        self.unasked: set[int] = set()
        """Sources that are still to say what they lack; they get nothing before."""

    def is_usable(self, source: int) -> bool:
        its = self._scores[source]
        return source not in self.unasked and not its.refused and not its.holds_nothing

    def ranked(self, now: float) -> list[int]:
        """The usable sources whose line may be tried, the best first: little against them, then fast."""
        usable = [s for s, each in enumerate(self._scores) if self.is_usable(s) and each.ready_at <= now]
        known = max((self._scores[s].rate for s in usable), default=0.0) or UNKNOWN_RATE

        def badness(source: int) -> tuple[float, float, int]:
            its = self._scores[source]
            against = its.demerits(now) if its.is_demoted(now) else 0.0
            return against, its.expected_seconds(_TYPICAL_BYTES, known), source

        return sorted(usable, key=badness)

    def is_demoted(self, source: int, now: float) -> bool:
        """Demoted is who did wrong while others did not; of sources that all did, each is as good as it is."""
        return self._scores[source].is_demoted(now) and any(
            other != source and self._is_good(other, now) for other in range(len(self._scores))
        )

    def may_bring(self, source: int, blob: Blob, now: float) -> bool:
        """Whether the source may be asked for the blob: it holds it, and nobody better could bring it."""
        if not blob.is_held_by(source):
            return False
        if source in blob.bad_at and any(
            other != source and self._may_still_bring(other, blob) for other in range(len(self._scores))
        ):
            return False
        return not self.is_demoted(source, now) or not self.can_do_without(source, blob, now)

    def can_do_without(self, source: int, blob: Blob, now: float) -> bool:
        """Whether another source, in good standing, can bring the blob."""
        return any(
            other != source and self._is_good(other, now) and self._may_still_bring(other, blob)
            for other in range(len(self._scores))
        )

    def is_open(self, blob: Blob) -> bool:
        """Whether somebody can still bring the blob who has never brought it damaged."""
        return any(self._may_still_bring(source, blob) for source in range(len(self._scores)))

    def is_complete_without(self, source: int, with_gaps: Collection[int], now: float) -> bool:
        """Whether another source, in good standing, can bring everything."""
        return any(
            other != source and other not in with_gaps and self._is_good(other, now)
            for other in range(len(self._scores))
        )

    def far_below(self, now: float) -> list[int]:
        """Sources whose streams bring far less than those of another."""
        measured = [s for s, each in enumerate(self._scores) if each.epochs >= _ENOUGH_EPOCHS and each.streams]
        best = max((self._scores[s].rate for s in measured), default=0.0)
        return [s for s in measured if self._scores[s].rate < _FAR_BELOW * best and not self.is_demoted(s, now)]

    def is_hopeless(self, blobs: Iterable[Blob]) -> bool:
        """Whether one of these is held only by sources that are given up."""
        return any(not any(self._may_answer(s, blob) for s in range(len(self._scores))) for blob in blobs)

    def _is_good(self, source: int, now: float) -> bool:
        its = self._scores[source]
        return self.is_usable(source) and its.lost is None and not its.is_demoted(now)

    def _may_still_bring(self, source: int, blob: Blob) -> bool:
        return self.is_usable(source) and self._may_answer(source, blob) and source not in blob.bad_at

    def _may_answer(self, source: int, blob: Blob) -> bool:
        its = self._scores[source]
        return its.lost is None and not its.holds_nothing and blob.is_held_by(source)
