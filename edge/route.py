"""Where a request is answered. Pure: facts in, a decision out; nothing is asked and nothing is waited for.

    labelled sensitive          Refuse          it should not have come here; a device answers such requests itself
    labelled in unknown words   Refuse          what a newer client means by it may be sensitive
    loaded                      Local           the worker of a followed channel, or of a revision
    complete on disk            LoadThenLocal   the first request for it pays for the load
    a neighbour has it          ToNeighbour     it is in the same branch; one hop, never more
    public, line up             Escalate        the center has every model, unless the tenant forbids it
    nothing of these            Refuse          say what is missing, at once

The decision is every way that is possible and allowed, the best first; who follows it takes the next one when a way
fails before it brought anything. Here and neighbours are ordered by expected time, where whoever is nearer wins what is
nearly a tie. The center comes after those that are expected to begin inside the deadline, and before those that are
not. A request that a neighbour passed on goes no further.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from deltaic.errors import DeltaicError
from deltaic.names import ChannelName, RevisionName
from deltaic.v1 import inference_pb2
from edge.branch.expected import Expected
from edge.errors import CenterUnreachable, EscalationForbidden, NotCompleteYet, NotHeldHere, SensitiveNotAllowed

Target = ChannelName | RevisionName

_NOT_SENSITIVE = (inference_pb2.SENSITIVITY_UNSPECIFIED, inference_pb2.SENSITIVITY_PUBLIC)
_TIE_FACTOR = 1.25
_TIE_SECONDS = 0.1
"""A neighbour must be this much faster than here: its numbers are a few seconds old, and so may ours be."""
_AGAIN_MS = "2000"
_NOW = Expected(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Local:
    """Answer with the worker that serves `key`, a channel or a revision."""

    key: str


@dataclass(frozen=True, slots=True)
class LoadThenLocal:
    """Load this revision from disk, then answer with it."""

    revision: RevisionName


@dataclass(frozen=True, slots=True)
class ToNeighbour:
    """Pass the request on to another edge of the branch, which is to answer it with `model`."""

    node: str
    address: str
    model: str
    loaded: bool = True


@dataclass(frozen=True, slots=True)
class Escalate:
    """Pass the request on to the center, which is to answer it with `model`; empty: as it was asked for.

    What is held here is asked for by its digest: the center's channel may have moved on, and a caller must not see a
    newer version, then the older one again.
    """

    model: str = ""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nobody can or may answer."""

    error: DeltaicError


Way = Local | LoadThenLocal | ToNeighbour | Escalate


@dataclass(frozen=True, slots=True)
class Timed:
    """A way, and the seconds that it is expected to take."""

    way: Way
    expected: Expected = _NOW


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known when a request comes.

    `here` is what is expected of this edge, if it can answer at all. `seconds` are left until the deadline.
    `may_escalate` says whether the tenant lets requests leave the branch, `forwarded` whether a neighbour passed it on.
    """

    line_up: bool
    here: Expected = _NOW
    neighbours: Sequence[Timed] = field(default=())
    seconds: float = math.inf
    may_escalate: bool = True
    forwarded: bool = False


def decide(
    target: Target,
    sensitivity: "inference_pb2.Sensitivity.ValueType",
    *,
    loaded: Callable[[str], bool],
    held: Callable[[Target], RevisionName | None],
    coming: Callable[[Target], str | None],
    situation: Situation,
) -> tuple[Timed, ...] | Refuse:
    """`loaded` says whether a key has a worker, `held` which complete revision a target means on this disk.

    `coming` says how far this edge is with a channel that it follows, for people; None for all other targets.
    """
    if sensitivity not in _NOT_SENSITIVE:
        error = SensitiveNotAllowed(
            "a request labelled sensitive, or in a way unknown here, must not leave its device",
            hint="send it to the device's own address, or label it public if it is",
        )
        return Refuse(error)
    public = sensitivity == inference_pb2.SENSITIVITY_PUBLIC
    revision = held(target)
    local = _local(target, loaded, revision)
    branch = _by_time(
        [Timed(local, situation.here)] if local else [], () if situation.forwarded else situation.neighbours
    )
    center: list[Timed] = []
    if public and situation.line_up and situation.may_escalate and not situation.forwarded:
        center = [Timed(Escalate(str(revision) if revision is not None and revision != target else ""))]
    in_time = [way for way in branch if way.expected.first <= situation.seconds]
    late = [way for way in branch if way.expected.first > situation.seconds]
    ways = (*in_time, *center, *late)
    return ways or Refuse(_nobody(target, coming(target), public=public, situation=situation))


def _local(target: Target, loaded: Callable[[str], bool], held: RevisionName | None) -> Local | LoadThenLocal | None:
    if loaded(str(target)):
        return Local(str(target))
    return LoadThenLocal(held) if held is not None else None


def _by_time(here: list[Timed], neighbours: Sequence[Timed]) -> list[Timed]:
    """The fastest first, but here first where no neighbour is clearly faster."""
    others = sorted(neighbours, key=lambda each: each.expected.whole)
    if not here:
        return others
    bar = here[0].expected.whole
    faster = [each for each in others if each.expected.whole * _TIE_FACTOR + _TIE_SECONDS < bar]
    return [*faster, *here, *others[len(faster) :]]


def _nobody(target: Target, how_far: str | None, *, public: bool, situation: Situation) -> DeltaicError:
    """Why there is no way."""
    if situation.forwarded:
        return NotHeldHere(f"{target} is not on this edge", hint="a request that was passed on once goes no further")
    if public and not situation.may_escalate:
        return EscalationForbidden(
            f"no edge of this branch answers for {target}, and requests of this tenant do not leave the branch",
            hint="let an edge follow its channel (--channels), or take the tenant off --no-escalation",
        )
    if public:
        return line_cut(target, how_far)
    if how_far is not None:
        return _not_complete(target, how_far)
    return SensitiveNotAllowed(
        f"{target} is not on this edge, and a request without a label is not passed on to the center",
        hint="label it public if it is (deltaic ask --label public), or let this edge follow the channel (--channels)",
    )


def line_cut(target: Target, how_far: str | None = None) -> CenterUnreachable:
    """What a caller is told when only the center could answer; `how_far` as `coming` of `decide` says it."""
    if how_far is not None:
        return CenterUnreachable(
            f"{target} is not complete on this edge ({how_far}) and the line to the center is cut",
            hint="ask again when the line is back; deltaic status shows how far it is",
            model=str(target.of_model),
            retry_after_ms=_AGAIN_MS,
        )
    return CenterUnreachable(
        f"{target} is only at the center and the line is cut",
        hint="ask again when the line is back, or let this edge follow its channel (--channels)",
        model=str(target.of_model),
        retry_after_ms=_AGAIN_MS,
    )


def _not_complete(target: Target, how_far: str) -> NotCompleteYet:
    return NotCompleteYet(
        f"this edge follows {target} and has no complete revision of it yet: {how_far}",
        hint="try again in a while; deltaic status shows how far it is",
        model=str(target.of_model),
        retry_after_ms=_AGAIN_MS,
    )
