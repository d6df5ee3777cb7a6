"""Answers of before, for exact repetitions of requests whose answer is the same every time.

Only what is deterministic is looked up or kept: a request with temperature 0 or with a seed. Its key is an HMAC-SHA256
over everything that makes the answer: revision, settings of the engine, tenant, prompt or messages, sampling, adapters,
tools, constraint; only model name, label and priority are left out. Nothing similar is ever taken for the same.

A request that is labelled sensitive, or in a way unknown here, is not looked at. One that names adapters is only kept
where `adapter_digest` says what each name stands for. An answer is kept when it is complete, made by a worker of this
edge from the revision that it was asked of, and small enough; it is forgotten with its revision.
"""

import hashlib
import hmac
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from deltaic.names import RevisionName
from deltaic.v1 import inference_pb2
from edge.index.index import BranchIndex
from edge.index.secret import IndexSecret
from edge.sealed_answers import MOST_BODY_BYTES, pressed, sealed, unpressed, unsealed

MOST_ENTRY_BYTES = 256 << 10
_OVERHEAD = 256
_MAY_BE_KEPT = (inference_pb2.SENSITIVITY_UNSPECIFIED, inference_pb2.SENSITIVITY_PUBLIC)
_Pieces = list[inference_pb2.GenerateResponse]


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """`engine` names what besides the request makes an answer, and `node` is who answers from here.

    `most_bytes` bounds the memory; `seconds` is how long an answer is kept. `shared` puts answers into the index, too.
    """

    node: str
    on: bool = False
    most_bytes: int = 32 << 20
    seconds: float = 3600.0
    engine: str = ""
    shared: bool = False


class ResponseCache:
    """Looks up and records. Lives on one event loop."""

    def __init__(
        self,
        settings: CacheSettings,
        index: BranchIndex,
        secret: IndexSecret,
        *,
        adapter_digest: Callable[[RevisionName, str], str | None] = lambda _revision, _name: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`adapter_digest` says what an adapter's name stands for, where that is known; `clock` gives seconds."""
        self._settings = settings
        self._index = index
        self._shared = settings.shared and secret.known
        # Without a secret, keys never leave this process: any will do.
        self._secret = secret if secret.known else IndexSecret(os.urandom(32).hex())
        self._adapter_digest = adapter_digest
        self._clock = clock
        self._kept: OrderedDict[tuple[RevisionName, str], tuple[float, bytes]] = OrderedDict()
        self._held: frozenset[RevisionName] = frozenset()
        self._bytes = 0
        self.hits = self.misses = 0

    @property
    def kept_bytes(self) -> int:
        """Of memory, for answers kept here."""
        return self._bytes

    def key(self, request: inference_pb2.GenerateRequest, revision: RevisionName) -> str | None:
        """64 hexadecimal digits; None for a request that is not looked up."""
        if not self._settings.on or request.sensitivity not in _MAY_BE_KEPT or not _is_deterministic(request.sampling):
            return None
        adapters = [self._adapter_digest(revision, adapter.name) for adapter in request.adapters]
        if None in adapters:
            return None
        asked = inference_pb2.GenerateRequest()
        asked.CopyFrom(request)
        asked.DiscardUnknownFields()
        for left_out in ("model", "sensitivity", "priority"):
            asked.ClearField(left_out)
        asked.max_tokens, asked.choices = request.max_tokens or 256, request.choices or 1
        parts = [str(revision), self._settings.engine, *map(str, adapters)]
        digest = hashlib.sha256("\0".join(parts).encode() + b"\0\0" + asked.SerializeToString(deterministic=True))
        return hmac.digest(self._secret.key("answer key"), digest.digest(), "sha256").hex()

    async def lookup(self, request: inference_pb2.GenerateRequest, revision: RevisionName) -> _Pieces | None:
        """The whole answer to stream again, marked `from_cache`; None where there is none. At most one round trip."""
        if (key := self.key(request, revision)) is None:
            return None
        answer = self._own(revision, key) or await self._from_branch(revision, key)
        pieces = unpressed(answer) if answer else None
        if not pieces:
            self.misses += 1
            return None
        self.hits += 1
        return [self._again(piece) for piece in pieces]

    def recording(self, request: inference_pb2.GenerateRequest, revision: RevisionName) -> "Recording":
        """What notes an answer while it is streamed, and keeps it once it is complete."""
        return Recording(self, self.key(request, revision), revision, self._settings.node, request.choices or 1)

    def keep(self, revision: RevisionName, key: str, pieces: _Pieces) -> None:
        """Keep a complete answer here, and in the index where it is shared."""
        answer = pressed(pieces)
        if len(answer) > MOST_ENTRY_BYTES:
            return
        self._put(revision, key, answer)
        if self._shared:
            self._index.store(revision, key, sealed(answer, self._secret.key("answer"), _place(revision, key)))

    def keep_only(self, held: Iterable[RevisionName]) -> None:
        """Forget what was answered from revisions that are no longer here."""
        before, self._held = self._held, frozenset(held)
        for gone in (before | {revision for revision, _ in self._kept}) - self._held:
            for place in [place for place in self._kept if place[0] == gone]:
                self._forget(place)
            if self._shared:
                self._index.drop_revision(gone)

    def _own(self, revision: RevisionName, key: str) -> bytes | None:
        until, answer = self._kept.get((revision, key), (0.0, b""))
        if not answer:
            return None
        if self._clock() >= until:
            self._forget((revision, key))
            return None
        self._kept.move_to_end((revision, key))
        return answer

    async def _from_branch(self, revision: RevisionName, key: str) -> bytes | None:
        value = await self._index.cached(revision, key) if self._shared else None
        answer = unsealed(value, self._secret.key("answer"), _place(revision, key)) if value else None
        if answer is not None and len(answer) <= MOST_ENTRY_BYTES:
            self._put(revision, key, answer)
        return answer

    def _put(self, revision: RevisionName, key: str, answer: bytes) -> None:
        self._forget((revision, key))
        self._kept[revision, key] = (self._clock() + self._settings.seconds, answer)
        self._bytes += len(answer) + _OVERHEAD
        while self._bytes > self._settings.most_bytes:
            self._forget(next(iter(self._kept)))

    def _forget(self, place: tuple[RevisionName, str]) -> None:
        if place in self._kept:
            self._bytes -= len(self._kept.pop(place)[1]) + _OVERHEAD

    def _again(self, piece: inference_pb2.GenerateResponse) -> inference_pb2.GenerateResponse:
        if piece.HasField("completion"):
            done = piece.completion
            done.from_cache = True
            done.node, done.answered_by = self._settings.node, inference_pb2.NODE_ROLE_EDGE
            done.usage.cached_tokens = done.usage.prompt_tokens
            done.timings.Clear()
        return piece


class Recording:
    """Notes one answer; forgets it when it is larger than MOST_BODY_BYTES."""

    def __init__(self, cache: ResponseCache, key: str | None, revision: RevisionName, node: str, choices: int) -> None:
        self._cache = cache
        self._key = key
        self._revision = revision
        self._node = node
        self._left = set(range(choices))
        self._pieces: _Pieces = []
        self._bytes = 0

    def add(self, piece: inference_pb2.GenerateResponse) -> None:
        """The next piece, as it is passed on. With the end of the last choice the answer is kept."""
        if self._key is None:
            return
        self._bytes += piece.ByteSize() + 4
        if self._bytes > MOST_BODY_BYTES or not self._is_ours(piece):
            self._key, self._pieces = None, []
            return
        self._pieces.append(piece)
        if piece.HasField("completion"):
            self._left.discard(piece.choice)
            if not self._left:
                self._cache.keep(self._revision, self._key, self._pieces)
                self._key, self._pieces = None, []

    def _is_ours(self, piece: inference_pb2.GenerateResponse) -> bool:
        """Another node may have other settings, and a channel may have moved since the key was made."""
        if not piece.HasField("completion"):
            return True
        done = piece.completion
        return (done.revision, done.node, done.from_cache) == (str(self._revision), self._node, False)


def _is_deterministic(sampling: inference_pb2.Sampling) -> bool:
    return (sampling.HasField("temperature") and sampling.temperature == 0) or sampling.HasField("seed")


def _place(revision: RevisionName, key: str) -> str:
    return f"{revision}\0{key}"
