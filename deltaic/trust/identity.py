"""Who is calling: the seam that authentication fills."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

MAX_NAME = 255
"""Characters of a caller's name."""


class Role(StrEnum):
    """What a caller may be. A method names the roles that may call it in `deltaic.trust.roles`."""

    PUBLISHER = "publisher"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    NODE = "node"
    APPLICATION = "application"


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller: the name that the audit log shows, and its roles."""

    name: str
    roles: frozenset[Role]


class Authenticator(Protocol):
    """Finds out who is calling from what came with the call."""

    def authenticate(self, metadata: Mapping[str, str], peer: str) -> Identity:
        """`peer` is gRPC's address of the caller. Raises Unauthenticated or PermissionDenied."""


class OpenNetwork:
    """Everybody who reaches the port has every role: for loopback and for networks that are trusted as a whole."""

    def authenticate(self, metadata: Mapping[str, str], peer: str) -> Identity:
        """Takes the caller's word for its name, which logs will keep: `x-node` of its metadata, else its address."""
        return Identity((metadata.get("x-node", "") or peer)[:MAX_NAME], frozenset(Role))
