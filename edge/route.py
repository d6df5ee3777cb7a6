"""Where a request is answered. Pure: facts in, a decision out; nothing is asked and nothing is waited for.

    labelled sensitive          Refuse          it should not have come here; a device answers such requests itself
    labelled in unknown words   Refuse          what a newer client means by it may be sensitive
    loaded                      Local           the worker of a followed channel, or of a revision
    complete on disk            LoadThenLocal   the first request for it pays for the load
    followed, not public        Refuse          it comes: say how far it is, so that the caller asks again
    otherwise, not public       Refuse          what nobody labelled public goes no further than it has come
    otherwise, line up          Escalate        the center has every model
    otherwise, line cut         Refuse          say what is missing, at once

Neighbours of the branch will come between LoadThenLocal and Escalate, by expected time.
"""

from collections.abc import Callable
from dataclasses import dataclass

from deltaic.errors import DeltaicError
from deltaic.names import ChannelName, RevisionName
from deltaic.v1 import inference_pb2
from edge.errors import CenterUnreachable, NotCompleteYet, SensitiveNotAllowed

Target = ChannelName | RevisionName

_NOT_SENSITIVE = (inference_pb2.SENSITIVITY_UNSPECIFIED, inference_pb2.SENSITIVITY_PUBLIC)


@dataclass(frozen=True, slots=True)
class Local:
    """Answer with the worker that serves `key`, a channel or a revision."""

    key: str


@dataclass(frozen=True, slots=True)
class LoadThenLocal:
    """Load this revision from disk, then answer with it."""

    revision: RevisionName


@dataclass(frozen=True, slots=True)
class Escalate:
    """Pass the request on to the center."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nobody can or may answer."""

    error: DeltaicError


Route = Local | LoadThenLocal | Escalate | Refuse


def decide(
    target: Target,
    sensitivity: "inference_pb2.Sensitivity.ValueType",
    *,
    loaded: Callable[[str], bool],
    held: Callable[[Target], RevisionName | None],
    coming: Callable[[Target], str | None],
    line_up: bool,
) -> Route:
    """`loaded` says whether a key has a worker, `held` which complete revision a target means on this disk.

    `coming` says how far this edge is with a channel that it follows, for people; None for all other targets.
    """
    if sensitivity not in _NOT_SENSITIVE:
        error = SensitiveNotAllowed(
            "a request labelled sensitive, or in a way unknown here, must not leave its device",
            hint="send it to the device's own address, or label it public if it is",
        )
        return Refuse(error)
    if loaded(str(target)):
        return Local(str(target))
    if (revision := held(target)) is not None:
        return LoadThenLocal(revision)
    how_far = coming(target)
    if sensitivity == inference_pb2.SENSITIVITY_PUBLIC:
        return Escalate() if line_up else Refuse(line_cut(target, how_far))
    if how_far is not None:
        return Refuse(_not_complete(target, how_far))
    unlabelled = SensitiveNotAllowed(
        f"{target} is not on this edge, and a request without a label is not passed on to the center",
        hint="label it public if it is (deltaic ask --label public), or let this edge follow the channel (--channels)",
    )
    return Refuse(unlabelled)


def line_cut(target: Target, how_far: str | None = None) -> CenterUnreachable:
    """What a caller is told when only the center could answer; `how_far` as `coming` of `decide` says it."""
    if how_far is not None:
        return CenterUnreachable(
            f"{target} is not complete on this edge ({how_far}) and the line to the center is cut",
            hint="ask again when the line is back; deltaic status shows how far it is",
            model=str(target.of_model),
        )
    return CenterUnreachable(
        f"{target} is only at the center and the line is cut",
        hint="ask again when the line is back, or let this edge follow its channel (--channels)",
        model=str(target.of_model),
    )


def _not_complete(target: Target, how_far: str) -> NotCompleteYet:
    return NotCompleteYet(
        f"this edge follows {target} and has no complete revision of it yet: {how_far}",
        hint="try again in a while; deltaic status shows how far it is",
        model=str(target.of_model),
    )
