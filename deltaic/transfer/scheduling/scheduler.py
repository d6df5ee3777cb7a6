"""The decisions of one fetch: which source brings which blobs in which stream, and what happens when it does not.

Streams go to the best source first, as many as its window has room for. A source that lies, stalls, is cut or is far
slower than the others is demoted: it gets only what nobody better can bring, until that is forgotten. When nothing is
left to hand out, sources with room relieve the slowest streams.

Nothing here waits or reads a clock: `now` is an argument, in seconds of a clock that never runs backwards.
"""

from collections.abc import Iterable, Sequence

from deltaic.errors import Code, DeltaicError
from deltaic.transfer.backoff import Retry, may_pass
from deltaic.transfer.errors import BadFrame, LineLost, SourceLacks, SourceLied
from deltaic.transfer.scheduling import score
from deltaic.transfer.scheduling.ledger import Arrived, Blob, Ledger
from deltaic.transfer.scheduling.relief import Relief
from deltaic.transfer.scheduling.score import Score
from deltaic.transfer.scheduling.standing import Standing
from deltaic.transfer.scheduling.stream import Stream
from deltaic.weights.digest import Digest
from deltaic.weights.errors import DigestMismatch

BAD_COPIES = 3
_HOPELESS_BLOBS = 8

_MOST_BYTES = 16 << 20
_FIRST_BYTES = 4 << 20
_LEAST_BYTES = 512 * 1024
_MOST_BLOBS = 64
_STREAM_SECONDS = 1.0

_STALL_SECONDS = 4.0
_LOOK_AGAIN_SECONDS = 0.5


class Scheduler:
    """For the event loop of one fetch: its owner starts what `next_stream` returns and tells what becomes of it."""

    def __init__(self, digests: Iterable[Digest], names: Sequence[str], *, streams: int, retry: Retry) -> None:
        """`names` are the sources, the first the one to prefer while nothing is known; `streams` bounds the memory."""
        self.scores = [Score(streams, retry) for _ in names]
        self.streams: list[Stream] = []
        self.bad_copies = 0
        self._names = names
        self._most_streams = streams
        self._ledger = Ledger(digests, most_left_bytes=(streams + 1) * _FIRST_BYTES)
        self._standing = Standing(self.scores)
        self._relief = Relief(self.scores, self._ledger.total)

    # ---- what there is to do

    @property
    def finished(self) -> bool:
        """Whether every blob has come or never will."""
        return self._ledger.finished

    @property
    def cuts(self) -> int:
        """How many times a line failed."""
        return sum(each.cuts for each in self.scores)

    @property
    def arriving_bytes(self) -> int:
        """Unverified bytes of the blobs that are on their way."""
        return sum(stream.arrived.size for stream in self.streams)

    @property
    def doubled_bytes(self) -> int:
        """Bytes asked of a second source while a first one was bringing them."""
        return self._relief.doubled_bytes

    @property
    def open(self) -> list[Digest]:
        """What has not come yet."""
        blobs = self._ledger.blobs.values()
        return [each.digest for each in blobs if not each.whole and each.digest not in self._ledger.hopeless]

    def next_stream(self, now: float) -> Stream | None:
        """A stream to start, if there is one."""
        if len(self.streams) >= self._most_streams:
            return None
        ready = [source for source in self._standing.ranked(now) if self._has_room(source, now)]
        for source in ready if len(self._ledger) else ():
            if blobs := self._hand_out(source, now):
                return self._open(source, blobs, now)
        for source in ready if len(self.scores) > 1 else ():
            if (blob := self._relieve(source, now)) is not None:
                return self._open(source, [blob], now)
        return None

    def overdue(self, now: float) -> list[Stream]:
        """Streams to stop: they are silent, or their source is far slower than another that can bring their blobs."""
        stopped = [stream for stream in self.streams if self._is_stalled(stream, now)]
        for source in {stream.source for stream in stopped}:
            self.scores[source].penalise(score.STALLED, now)
        for source in self._standing.far_below(now):
            streams = [each for each in self.streams if each.source == source]
            if all(self._can_be_stopped(each, now) for each in streams):
                self.scores[source].penalise(score.SLOW, now)
                self.scores[source].epochs = 0
                stopped += [each for each in streams if each not in stopped]
        for stream in stopped:
            self.end(stream, now)
        return stopped

    def wake_at(self, now: float) -> float:
        """When to ask again, if nothing happens before."""
        return min([now + _LOOK_AGAIN_SECONDS, *(each.ready_at for each in self.scores if each.ready_at > now)])

    def error(self) -> DeltaicError | None:
        """Why the fetch cannot succeed: something cannot be had, and nothing else is on its way."""
        hopeless = self._ledger.hopeless
        if hopeless and (self.finished or len(hopeless) >= _HOPELESS_BLOBS):
            return self._give_up()
        if self.streams or self._standing.unasked or not self._standing.is_hopeless(self._ledger.pending):
            return None
        if hopeless:
            return self._give_up()
        lost = (each.lost for each in self.scores if each.lost is not None)
        return next(lost, SourceLacks(f"{len(self._ledger)} blobs cannot be had from {', '.join(self._names)}"))

    # ---- what the sources say of themselves

    def ask_first(self, sources: Iterable[int]) -> None:
        """These get nothing before `told` says what they lack."""
        self._standing.unasked |= set(sources)

    def told(self, source: int, asked: Sequence[Digest], missing: Sequence[Digest]) -> None:
        """The source said which of some blobs it lacks."""
        self.scores[source].answered()
        self.scores[source].holds_nothing = len(missing) >= len(asked)
        self._ledger.lacks(source, asked, missing)
        self._asked(source)

    def not_told(self, source: int, error: DeltaicError, now: float) -> None:
        """The source did not answer that question. One that cannot is asked for blobs; one that is silent waits."""
        if may_pass(error):
            self.scores[source].holds_nothing = True
            self._cut(source, error, now)
        self._asked(source)

    def _asked(self, source: int) -> None:
        self._standing.unasked.discard(source)
        for blob in list(self._ledger.pending):
            self._despair_if_nobody_has(blob)

    # ---- what becomes of a stream

    def heard(self, stream: Stream, data: bytes, now: float) -> None:
        """Bytes of the present blob came; none, when the stream waits for our own rate limit."""
        if stream.ended:
            return
        its = self.scores[stream.source]
        if data and not stream.bytes:
            its.first_piece(now - stream.began)
        stream.add(data, now)
        if data:
            its.arrived(len(data), now)

    def is_wanted(self, stream: Stream) -> bool:
        """Whether the stream should go on."""
        return not stream.ended and (stream.current is not None or stream.is_whole)

    def verified(self, stream: Stream, blob: Blob, now: float) -> list[Stream]:
        """The present blob is kept; the streams that were bringing it too, which are to be stopped."""
        if not blob.whole:
            self._ledger.done(blob)
        blob.carriers -= 1
        stream.next_blob(now)
        others = [each for each in self.streams if each.current is blob and not each.keeping]
        for other in others:
            self.end(other, now)
        return others

    def damaged(self, stream: Stream, blob: Blob, error: DeltaicError, now: float) -> None:
        """The present blob came whole and wrong, or the source itself found it damaged."""
        self.bad_copies += 1
        blob.copies += 1
        self._blame(stream, blob, error, now)
        stream.next_blob(now)
        self._ledger.put_back(blob, Arrived())
        if blob.copies >= BAD_COPIES and not blob.carriers and not self._standing.is_open(blob):
            self._ledger.despair(blob, error)
        self._leave_the_rest_to_others(stream.source, now)

    def end(self, stream: Stream, now: float) -> None:
        """The stream is over; what it did not bring is handed out again. Ending twice is nothing."""
        if stream.ended:
            return
        stream.ended = True
        self.streams.remove(stream)
        self.scores[stream.source].closed(now)
        if stream.current is not None:
            self._ledger.put_back(stream.current, stream.arrived)
        for blob in stream.later:
            self._ledger.put_back(blob, stream.start_of(blob))

    def failed(self, stream: Stream, error: DeltaicError, now: float) -> None:
        """The stream ended with an error. After its last blob that is of no interest."""
        blob, source = stream.current, stream.source
        if stream.ended or blob is None:
            self.end(stream, now)
            return
        if error.code is Code.DATA_LOSS:
            self.damaged(stream, blob, error, now)
        elif error.code is Code.NOT_FOUND:
            self._ledger.denied(source, blob)
        elif not may_pass(error):
            self.scores[source].refuse(error)
        elif stream.cuts == self.scores[source].cuts and not _had_its_time(stream, error):
            self._cut(source, error, now)
        self.end(stream, now)
        self._despair_if_nobody_has(blob)

    # ---- how

    def _has_room(self, source: int, now: float) -> bool:
        """A source in doubt gets one stream; none gets so many that another one, as good, would get nothing."""
        its = self.scores[source]
        if not its.streams:
            return True
        if its.is_narrow or self._standing.is_demoted(source, now):
            return False
        waiting = sum(1 for s in self._standing.ranked(now) if not self.scores[s].streams and self._has_work(s, now))
        return its.streams < its.window.size and len(self.streams) + waiting < self._most_streams

    def _has_work(self, source: int, now: float) -> bool:
        if self._standing.is_demoted(source, now):
            return False
        return any(self._standing.may_bring(source, blob, now) for blob in self._ledger.pending)

    def _hand_out(self, source: int, now: float) -> list[Blob]:
        if self._standing.is_demoted(source, now) and self._standing.is_complete_without(
            source, self._ledger.with_gaps, now
        ):
            return []
        most_bytes, most_blobs = self._portion(source, now)
        return self._ledger.take(lambda blob: self._standing.may_bring(source, blob, now), most_bytes, most_blobs)

    def _portion(self, source: int, now: float) -> tuple[int, int]:
        """Bytes and blobs of one stream: about a second, an even share of what is left, one blob from one in doubt."""
        its = self.scores[source]
        if its.is_narrow or self._standing.is_demoted(source, now):
            return 0, 1
        measured = int(its.rate * _STREAM_SECONDS) if its.rate else _FIRST_BYTES
        share = self._ledger.pending_bytes // (self._most_streams - len(self.streams))
        return min(_MOST_BYTES, measured, max(_LEAST_BYTES, share)), _MOST_BLOBS

    def _relieve(self, source: int, now: float) -> Blob | None:
        if self._standing.is_demoted(source, now):
            return None
        return self._relief.find(
            source, self.streams, lambda blob: self._standing.may_bring(source, blob, now), now
        )  # fmt: skip

    def _open(self, source: int, blobs: list[Blob], now: float) -> Stream:
        for blob in blobs:
            if blob.one_source_only and blob.left.sources - {source}:
                blob.left = Arrived()
        stream = Stream(source, blobs, now=now, cuts=self.scores[source].cuts)
        for blob in blobs:
            blob.left = Arrived()  # the stream has it
        self.streams.append(stream)
        self.scores[source].opened(now)
        return stream

    def _is_stalled(self, stream: Stream, now: float) -> bool:
        patience = _STALL_SECONDS + 4 * self.scores[stream.source].latency
        return now - stream.heard >= patience and self._can_be_stopped(stream, now)

    def _can_be_stopped(self, stream: Stream, now: float) -> bool:
        """Whether others, in good standing, can bring all that it was to bring."""
        rest = stream.blobs[stream.at :]
        return not stream.keeping and all(self._standing.can_do_without(stream.source, blob, now) for blob in rest)

    def _blame(self, stream: Stream, blob: Blob, error: DeltaicError, now: float) -> None:
        """Whose fault a damaged copy is; of one that came from several nobody can say."""
        if len(stream.arrived.sources | {stream.source}) > 1:
            blob.one_source_only = True
            for each in stream.arrived.sources:
                self.scores[each].penalise(score.SUSPECTED, now)
            return
        self._ledger.sent_damaged(stream.source, blob)
        if isinstance(error, DigestMismatch | BadFrame):  # else it said so itself, and is not to be believed less
            self.scores[stream.source].penalise(score.LIED, now)

    def _leave_the_rest_to_others(self, source: int, now: float) -> None:
        """A demoted source brings its present blobs to an end; those after them go elsewhere where they can."""
        if not self._standing.is_demoted(source, now):
            return
        for stream in [each for each in self.streams if each.source == source]:
            while stream.later and self._standing.can_do_without(source, stream.blobs[-1], now):
                start = stream.start_of(stream.blobs[-1])
                self._ledger.put_back(stream.give_up_last(), start)

    def _cut(self, source: int, error: DeltaicError, now: float) -> None:
        its = self.scores[source]
        if its.cut(error, now):
            its.lost = LineLost(
                f"gave up after {its.failures} attempts in a row without progress: {error.message}",
                hint="what has arrived is kept, and the next attempt goes on from there",
            )

    def _despair_if_nobody_has(self, blob: Blob) -> None:
        if blob.carriers or blob.whole or blob.digest in self._ledger.hopeless or self._standing.unasked:
            return
        if not any(blob.is_held_by(source) for source in range(len(self.scores))):
            self._ledger.despair(blob, SourceLacks(f"nobody holds {blob.digest}"))

    def _give_up(self) -> DeltaicError:
        hopeless = self._ledger.hopeless
        digest, error = next(iter(hopeless.items()))
        names = ", ".join(self._names)
        many = f"{len(hopeless)} blobs, the first {digest}," if len(hopeless) > 1 else str(digest)
        if all(each.code is Code.NOT_FOUND for each in hopeless.values()):
            return SourceLacks(f"{many} cannot be had from {names}", hint="publish the file again", digest=str(digest))
        return SourceLied(
            f"{many} arrives damaged from {names}: {error.message}",
            hint="the copy there is damaged: publish the file again",
            digest=str(digest),
        )


def _had_its_time(stream: Stream, error: DeltaicError) -> bool:
    """A call has a deadline; one that brought bytes until then has not failed."""
    return error.code is Code.DEADLINE_EXCEEDED and stream.bytes > 0
