"""What a node is told about fetching: the kinds of settings that an edge and a device share."""

from collections.abc import Iterable
from typing import Annotated

import grpc
from pydantic import AfterValidator, Field

from deltaic.runtime.addresses import check_address
from deltaic.runtime.setting_words import Words
from deltaic.transfer.rate_limit import RateLimit
from deltaic.transfer.rate_schedule import RateSchedule
from deltaic.transfer.source import GrpcSource, Source

_PEER_IDLE_SECONDS = 10.0


def _checked_addresses(addresses: list[str]) -> list[str]:
    return list(dict.fromkeys(check_address(each) for each in addresses))


def _checked_schedule(text: str) -> str:
    RateSchedule.parse(text)
    return text.strip()


Peers = Annotated[Words, AfterValidator(_checked_addresses)]
"""Addresses of nodes that may hold what is wanted, too."""

FetchRate = Annotated[str, AfterValidator(_checked_schedule)]
"""A limit in bytes a second, by time of day; see `RateSchedule`."""

FetchStreams = Annotated[int, Field(ge=1, le=64)]
"""Streams of one fetch at once: each holds a chunk of at most 4 MiB in memory."""


def sources_of(
    upstream: grpc.aio.Channel, name: str, peers: Iterable[tuple[str, grpc.aio.Channel]], rate: str | RateLimit
) -> list[Source]:
    """Upstream and peers, under one limit; `name` says upstream to people, `peers` are addresses and channels."""
    limit = rate if isinstance(rate, RateLimit) else RateLimit(RateSchedule.parse(rate))
    others = [peer_source(at, each, limit) for at, each in peers]
    return [GrpcSource(upstream, name, limit=limit), *others]


def peer_source(address: str, channel: grpc.aio.Channel, limit: RateLimit) -> Source:
    """Another node that may hold what is wanted, under the node's limit."""
    return GrpcSource(channel, f"edge {address}", idle_timeout=_PEER_IDLE_SECONDS, limit=limit)
