"""States of prompts on disk, from one life of a worker to the next, where the node's policy allows it.

    FOLDER/                        0700
    ├── key                        0600, 32 random bytes, made by the first worker
    └── FINGERPRINT/               of the revision and of everything that a state depends on
        └── NUMBER.state           sealed: the length of a JSON header, the header, the state

A state that anybody else wrote could crash llama.cpp or put words into a model's mouth, so what does not bear the seal
is removed unread. `Seal` is where encryption comes in; `Authenticated` only proves where a file comes from, so prompts
lie readable in the folder: allow it on a disk that is encrypted, or not at all.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from deltaic.engine.scheduling.request import Scope

_log = structlog.get_logger(__name__)
_LENGTH_BYTES = 4
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class KnownPrefix:
    """A text that was read, and the state after it. None under adapters: their names may mean something else later."""

    tenant: str
    tokens: tuple[int, ...]
    state: bytearray

    @property
    def scope(self) -> Scope:
        return Scope(self.tenant)


class Seal(Protocol):
    """Makes bytes that nobody else could have made."""

    def seal(self, name: str, plain: bytes) -> bytes:
        """What goes to the disk under `name`."""

    def open(self, name: str, sealed: bytes) -> bytes | None:
        """What was sealed under `name`; None when it was not, or not by us."""


class Authenticated:
    """HMAC-SHA256 in front of the plain bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, name: str, plain: bytes) -> bytes:
        return self._tag(name, plain) + plain

    def open(self, name: str, sealed: bytes) -> bytes | None:
        size = hashlib.sha256().digest_size
        tag, plain = sealed[:size], sealed[size:]
        return plain if hmac.compare_digest(tag, self._tag(name, plain)) else None

    def _tag(self, name: str, plain: bytes) -> bytes:
        return hmac.digest(self._key, name.encode() + b"\0" + plain, "sha256")


class PrefixFiles:
    """Saved by a worker that stops, read by the next one of the same fingerprint. Not for two at once."""

    def __init__(self, folder: Path, fingerprint: str, seal: Seal | None = None) -> None:
        """Raises OSError when the folder cannot be used."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder / hashlib.sha256(fingerprint.encode()).hexdigest()[:32]
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._seal = seal or Authenticated(_key_in(folder / "key"))

    def save(self, known: Iterable[KnownPrefix], budget: int) -> int:
        """Replace what is there, as far as `budget` bytes go; how many were written. Raises OSError."""
        self._clear()
        written = 0
        for number, prefix in enumerate(known):
            budget -= len(prefix.state)
            if budget < 0:
                break
            name = f"{number}.state"
            header = json.dumps({"tenant": prefix.tenant, "tokens": prefix.tokens}).encode()
            plain = len(header).to_bytes(_LENGTH_BYTES, "big") + header + prefix.state
            fresh = self._folder / f"{name}.new"
            fresh.write_bytes(self._seal.seal(name, plain))
            fresh.rename(self._folder / name)
            written += 1
        return written

    def take(self, budget: int) -> Iterator[KnownPrefix]:
        """Read and remove what is there; what is damaged or not ours goes unread."""
        for path in sorted(self._folder.glob("*.state")):
            if path.stat().st_size > budget:
                continue
            prefix = self._read(path)
            if prefix is not None:
                budget -= len(prefix.state)
                yield prefix
        self._clear()

    def _read(self, path: Path) -> KnownPrefix | None:
        plain = self._seal.open(path.name, path.read_bytes())
        if plain is None:
            _log.warning("prefix.not_ours", file=path.name)
            return None
        size = int.from_bytes(plain[:_LENGTH_BYTES], "big")
        header = json.loads(plain[_LENGTH_BYTES : _LENGTH_BYTES + size])
        state = bytearray(plain[_LENGTH_BYTES + size :])
        return KnownPrefix(str(header["tenant"]), tuple(header["tokens"]), state)

    def _clear(self) -> None:
        for path in self._folder.iterdir():
            path.unlink()


def _key_in(path: Path) -> bytes:
    """The folder's key, made when there is none."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(handle, "wb") as file:
        file.write(key := secrets.token_bytes(_KEY_BYTES))
    return key
