"""What the catalog knows about revisions, channels and tags, as values."""

import hashlib
from dataclasses import dataclass
from typing import Generic, TypeVar

from deltaic.names import ChannelName, RevisionName, TagName
from deltaic.v1 import content_pb2, registry_pb2

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Revision:
    """One immutable version. Sizes in bytes, times in microseconds since 1970 UTC."""

    name: RevisionName
    manifest_bytes: int
    file_bytes: int
    create_time_us: int
    description: str = ""

    def to_proto(self) -> registry_pb2.Revision:
        message = registry_pb2.Revision(
            name=str(self.name),
            manifest=content_pb2.Digest(sha256=bytes.fromhex(self.name.hex), size=self.manifest_bytes),
            file_bytes=self.file_bytes,
            description=self.description,
        )
        message.create_time.FromMicroseconds(self.create_time_us)
        return message


@dataclass(frozen=True, slots=True)
class Channel:
    """A movable name as it is now. `version` grows with every move of any channel."""

    name: ChannelName
    revision: Revision
    version: int
    update_time_us: int

    @property
    def etag(self) -> str:
        """Changes with every move; opaque, so that nobody computes the next one."""
        return hashlib.sha256(f"{self.name}@{self.version}".encode()).hexdigest()[:16]

    def to_proto(self) -> registry_pb2.Channel:
        message = registry_pb2.Channel(name=str(self.name), revision=self.revision.to_proto(), etag=self.etag)
        message.update_time.FromMicroseconds(self.update_time_us)
        return message


@dataclass(frozen=True, slots=True)
class Tag:
    """A fixed name. `create_time_us` is in microseconds since 1970 UTC."""

    name: TagName
    revision: Revision
    create_time_us: int

    def to_proto(self) -> registry_pb2.Tag:
        message = registry_pb2.Tag(name=str(self.name), revision=self.revision.to_proto())
        message.create_time.FromMicroseconds(self.create_time_us)
        return message


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Items in order, and the token of the next page; empty on the last."""

    items: tuple[Item, ...]
    next_token: str
