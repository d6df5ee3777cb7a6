"""The guard: the only place that builds what may leave a device.

`decide` answers every request with one of two values. `Outbound` holds the exact bytes that may be sent, and nothing
but this module can make one; `KeepLocal` says why the request stays. The rules, in order:

1. labelled SENSITIVE: stays
2. without a label: stays
3. labelled PUBLIC, but some detector finds something in any of its texts: stays
4. the policy of this device lets nothing out: stays
5. otherwise: may leave

A failure anywhere keeps the request. What is judged is a copy without unknown fields, and that very copy is sent: what
the caller does to its message afterwards, and what a newer client hides in fields that this version does not know,
cannot get out.
"""

import hmac
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import structlog
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from deltaic.names import ChannelName, parse_target
from deltaic.v1 import inference_pb2
from device import detectors
from device.errors import NotAnOutbound

_log = structlog.get_logger(__name__)


class KeepReason(StrEnum):
    """Why a request stays."""

    LABELLED_SENSITIVE = "LABELLED_SENSITIVE"
    UNLABELLED = "UNLABELLED"
    DETECTED = "DETECTED"
    OFFLINE_ONLY = "OFFLINE_ONLY"
    GUARD_FAILED = "GUARD_FAILED"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator of this device has decided."""

    offline_only: bool = False
    phone_regions: tuple[str, ...] = detectors.PHONE_REGIONS
    most_characters: int = detectors.MOST_CHARACTERS


@dataclass(frozen=True, slots=True)
class KeepLocal:
    """The request stays. `kinds` are the kinds of values that detectors found, never the values."""

    reason: KeepReason
    kinds: tuple[str, ...] = ()

    @property
    def may_be_sensitive(self) -> bool:
        """False only where the request was found harmless and the policy alone keeps it."""
        return self.reason is not KeepReason.OFFLINE_ONLY


MOST_TEXTS = 1_000  # messages, roles and stop texts of one request; looking at each has a cost of its own

_SEAL_KEY: Final = secrets.token_bytes(32)  # of this process; no other file reads it (a test looks)


def _seal_of(serialised: bytes) -> bytes:
    return hmac.digest(_SEAL_KEY, serialised, "sha256")


@dataclass(frozen=True, slots=True)
class Outbound:
    """A request that may leave, as the bytes that were judged, sealed so that other bytes cannot take their place.

    Raises NotAnOutbound when something outside of this module makes one.
    """

    serialised: bytes = field(repr=False)
    _seal: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not is_outbound(self):
            raise NotAnOutbound("only device.egress decides what may leave")

    def __reduce__(self) -> str | tuple[object, ...]:
        raise NotAnOutbound("an outbound request is neither stored nor copied")

    def request(self) -> inference_pb2.GenerateRequest:
        """A new message each time, so that changing one changes nothing that is sent later."""
        return inference_pb2.GenerateRequest.FromString(self.serialised)


def is_outbound(value: object) -> bool:
    """Whether `decide` made this value and these bytes; objects put together by other means have no right seal."""
    if type(value) is not Outbound:
        return False
    try:
        return hmac.compare_digest(value._seal, _seal_of(value.serialised))  # noqa: SLF001  # this module's own class
    except (AttributeError, TypeError):
        return False


def decide(request: inference_pb2.GenerateRequest, policy: Policy) -> Outbound | KeepLocal:
    """Judge one request by the rules above. Never raises. Takes up to a second on hostile text: call it in a thread."""
    try:
        return _judge(request, policy)
    except Exception as error:  # noqa: BLE001  # failure is refusal
        # The name of the error only: its message may quote the prompt.
        _log.error("egress.guard_failed", error=type(error).__name__)
        return KeepLocal(KeepReason.GUARD_FAILED)


def _judge(request: inference_pb2.GenerateRequest, policy: Policy) -> Outbound | KeepLocal:
    if request.sensitivity == inference_pb2.SENSITIVITY_SENSITIVE:
        return KeepLocal(KeepReason.LABELLED_SENSITIVE)
    if request.sensitivity != inference_pb2.SENSITIVITY_PUBLIC:
        return KeepLocal(KeepReason.UNLABELLED)
    copy = inference_pb2.GenerateRequest.FromString(request.SerializeToString())
    copy.DiscardUnknownFields()
    kinds = _kinds_in(copy, policy)
    if kinds:
        return KeepLocal(KeepReason.DETECTED, kinds)
    if policy.offline_only:
        return KeepLocal(KeepReason.OFFLINE_ONLY)
    serialised = copy.SerializeToString()
    return Outbound(serialised, _seal_of(serialised))


def _kinds_in(request: inference_pb2.GenerateRequest, policy: Policy) -> tuple[str, ...]:
    """Kinds found in any one text, or across the texts of one field: a number may be split over messages."""
    by_field: dict[str, list[str]] = {"model": list(_words_of(request.model))}
    for name, text in _texts(request):
        by_field.setdefault(name, []).append(text)
    every = [text for texts in by_field.values() for text in texts]
    if sum(map(len, every)) > policy.most_characters or len(every) > MOST_TEXTS:
        return (detectors.TOO_LONG,)
    looked_at = {*every, *("\n".join(texts) for texts in by_field.values())}
    return tuple(sorted({finding.kind for text in looked_at for finding in _detect(text, policy)}))


def _detect(text: str, policy: Policy) -> Sequence[detectors.Finding]:
    # A joined text is longer than its parts by its line ends; the limit has been checked on the parts.
    most = policy.most_characters + MOST_TEXTS
    return detectors.detect(text, phone_regions=policy.phone_regions, most_characters=most)


def _words_of(model: str) -> Iterator[str]:
    """The words that a caller chose in the name of a model; a digest is nobody's word. Raises BadName."""
    target = parse_target(model)
    yield target.model
    if isinstance(target, ChannelName):
        yield target.channel


def _texts(message: Message) -> Iterator[tuple[str, str]]:
    """Every text in a message with the name of its field, whatever that is, so that a new field cannot be forgotten.

    The name of the model is left to `_words_of`. Raises ValueError for bytes, which no detector can read.
    """
    for descriptor, value in message.ListFields():
        if descriptor.full_name == "deltaic.v1.GenerateRequest.model":
            continue
        kind = descriptor.message_type
        if kind is not None and kind.GetOptions().map_entry:
            yield from _texts_of_map(kind, value)
            continue
        for item in value if descriptor.is_repeated else [value]:
            if descriptor.type == FieldDescriptor.TYPE_STRING:
                yield descriptor.full_name, item
            elif descriptor.type == FieldDescriptor.TYPE_MESSAGE:
                yield from _texts(item)
            elif descriptor.type == FieldDescriptor.TYPE_BYTES:
                raise ValueError(f"{descriptor.full_name} holds bytes, which the guard cannot read")


def _texts_of_map(entry: Descriptor, value: Mapping[object, object]) -> Iterator[tuple[str, str]]:
    """The texts of a map; one that maps numbers to numbers has none. Raises ValueError for values of other kinds."""
    for name, items in (("key", value.keys()), ("value", value.values())):
        kind = entry.fields_by_name[name].type
        if kind == FieldDescriptor.TYPE_STRING:
            yield from ((entry.full_name, str(item)) for item in items)
        elif kind in (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_BYTES):
            raise ValueError(f"{entry.full_name} maps to what the guard cannot read")
