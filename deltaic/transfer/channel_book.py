"""What a node remembers of the channels that it follows, in one small file, so that it starts without its upstream.

    channels.json    {"format": 1, "channels": [{"target": C, "serving": C, "previous": C}], "known": [HEX, ...]}

C is a `deltaic.v1.Channel` in protobuf's JSON form. `known` lists every revision that may have a file here because of a
channel; what is known and no longer needed can be removed, even if the node was killed before it came to that.
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from deltaic.errors import DeltaicError
from deltaic.names import ChannelName, RevisionName
from deltaic.store.disk import write_whole
from deltaic.transfer.errors import BadChannel
from deltaic.v1 import registry_pb2
from deltaic.weights.digest import Digest

_log = structlog.get_logger(__name__)

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ChannelState:
    """A channel at one moment: the revision that it named."""

    channel: ChannelName
    revision: RevisionName
    etag: str
    manifest: Digest
    message: registry_pb2.Channel
    """As upstream said it; a mirror passes it on."""

    @classmethod
    def from_proto(cls, message: registry_pb2.Channel) -> "ChannelState":
        """Raises BadName, BadDigest, BadChannel (parts that contradict each other)."""
        channel = ChannelName.parse(message.name)
        revision = RevisionName.parse(message.revision.name)
        manifest = Digest.from_proto(message.revision.manifest)
        if revision.model != channel.model or revision.hex != manifest.hex:
            raise BadChannel(f"{channel} names {revision} with the manifest {manifest}, which do not belong together")
        return cls(channel, revision, message.etag, manifest, message)


@dataclass(slots=True)
class Record:
    """What is remembered of one channel."""

    target: ChannelState | None = None
    """What upstream said last."""
    serving: ChannelState | None = None
    """What was activated last."""
    previous: ChannelState | None = None
    """What served before; kept for a way back."""

    def states(self) -> list[ChannelState]:
        """All that there are, the most wanted first, each revision once."""
        return _distinct(self.target, self.serving, self.previous)

    def proven(self) -> list[ChannelState]:
        """What can serve at once: what did serve first, since a target may have failed to start."""
        return _distinct(self.serving, self.previous, self.target)


class ChannelBook:
    """The records of the followed channels. For one process; its owner calls it from one task at a time."""

    def __init__(self, path: Path, channels: Iterable[ChannelName], *, keep_previous: bool = True) -> None:
        self._path = path
        self._keep_previous = keep_previous
        self._known: set[str] = set()
        self.records: dict[ChannelName, Record] = {channel: Record() for channel in channels}

    def load(self) -> None:
        """Read the file. One that cannot be read is logged and then as good as absent: upstream will say it again."""
        try:
            content = json.loads(self._path.read_bytes())
            if content["format"] != _FORMAT:
                raise BadChannel(f"{self._path} is of format {content['format']}; this program reads {_FORMAT}")
            known = {str(each) for each in content["known"]}
            records = [_record(each) for each in content["channels"]]
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ParseError, DeltaicError) as error:
            _log.error("channels.unreadable", path=str(self._path), error=str(error))
            return
        for record in records:
            known.update(state.revision.hex for state in record.states())
            for state in record.states()[:1]:
                if state.channel in self.records:
                    self.records[state.channel] = record
        self._known = known

    def serialise(self) -> bytes:
        """The content of the file."""
        channels = [_written(record) for record in self.records.values() if record.states()]
        content = {"format": _FORMAT, "channels": channels, "known": sorted(self._known)}
        return json.dumps(content, indent=1).encode() + b"\n"

    def save(self, content: bytes) -> None:
        """Write what `serialise` returned, whole and durable. Blocking. Raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, content)

    def follow(self, channels: Iterable[ChannelName]) -> None:
        """These are followed from now on; what is remembered of the others goes."""
        self.records = {channel: self.records.get(channel, Record()) for channel in channels}

    def aim(self, state: ChannelState) -> None:
        """The channel has moved."""
        self.records[state.channel].target = state
        self._known.add(state.revision.hex)

    def switched(self, state: ChannelState) -> None:
        """The channel's new revision serves."""
        record = self.records[state.channel]
        if record.serving is not None and record.serving.revision != state.revision:
            record.previous = record.serving if self._keep_previous else None
        record.serving = state
        self._known.add(state.revision.hex)

    def give_up_previous(self, serving: Collection[RevisionName]) -> None:
        """Need no way back any more, except to what is `serving` now because nothing newer would start."""
        for record in self.records.values():
            if record.previous is not None and record.previous.revision not in serving:
                record.previous = None

    def unneeded(self) -> list[str]:
        """Hex of revisions that some channel brought here and no followed channel needs any more."""
        needed = {state.revision.hex for record in self.records.values() for state in record.states()}
        return sorted(self._known - needed)

    def forget(self, revision_hex: str) -> None:
        """Its files are gone."""
        self._known.discard(revision_hex)


def _distinct(*states: ChannelState | None) -> list[ChannelState]:
    """Those that are there, each revision once, at its first place."""
    found: dict[RevisionName, ChannelState] = {}
    for state in states:
        if state is not None:
            found.setdefault(state.revision, state)
    return list(found.values())


def _written(record: Record) -> dict[str, Any]:
    states = {"target": record.target, "serving": record.serving, "previous": record.previous}
    return {role: MessageToDict(state.message) for role, state in states.items() if state is not None}


def _record(written: dict[str, Any]) -> Record:
    def state(role: str) -> ChannelState | None:
        if role not in written:
            return None
        return ChannelState.from_proto(ParseDict(written[role], registry_pb2.Channel()))

    return Record(state("target"), state("serving"), state("previous"))
