"""What a node has of one model, as JSON in the index: written within a bound, read without trust.

{"address": "10.0.0.8:7410",
 "revisions": {HEX: {"held": true, "keys": [...], "leases": 1, "running": 1, "waiting": 0, "slots": 4,
                     "seconds_per_token": 0.02, "prefixes": [...]}}}
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from deltaic.names import RevisionName
from edge.index.entries import NodeEntry, RevisionEntry

MOST_BYTES = 65_536
_MOST_REVISIONS = 256
_MOST_KEYS = 64
_MOST_PREFIXES = 1024
_MOST_COUNT = 1_000_000


def written(entry: NodeEntry) -> dict[str, bytes]:
    """Model (the bare word) -> JSON, each of at most MOST_BYTES."""
    by_model: defaultdict[str, dict[str, RevisionEntry]] = defaultdict(dict)
    for revision, shown in entry.revisions.items():
        by_model[revision.model][revision.hex] = shown
    return {model: _within_bound(entry.address, revisions) for model, revisions in by_model.items()}


@lru_cache(maxsize=64)
def read(model: str, text: bytes) -> NodeEntry:
    """Raises ValueError for what `written` does not write."""
    if len(text) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES:,} bytes")
    try:
        said = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    revisions = _of(said, "revisions", dict)
    return NodeEntry(
        _address(said),
        {
            RevisionName.parse(f"models/{model}/revisions/sha256:{hex_}"): _revision_read(shown)
            for hex_, shown in list(revisions.items())[:_MOST_REVISIONS]
        },
    )


def _within_bound(address: str, revisions: Mapping[str, RevisionEntry]) -> bytes:
    """All that fits: what is loaded before what rests on the disk, and all of it before prefixes."""
    first = sorted(revisions, key=lambda hex_: (not revisions[hex_].keys, hex_))[:_MOST_REVISIONS]
    for prefixes, most in ((_MOST_PREFIXES, len(first)), (64, len(first)), (0, len(first)), (0, 32), (0, 1)):
        shown = ",".join(f'"{hex_}":{_revision_written(revisions[hex_], prefixes)}' for hex_ in first[:most])
        text = f'{{"address":{json.dumps(address)},"revisions":{{{shown}}}}}'.encode()
        if len(text) <= MOST_BYTES:
            return text
    return b'{"address":"","revisions":{}}'


@lru_cache(maxsize=1024)
def _revision_written(entry: RevisionEntry, prefixes: int) -> str:
    """Most of what is written again every few moments is as it was."""
    shown = {
        "held": entry.held,
        "keys": entry.keys[:_MOST_KEYS],
        "leases": entry.leases,
        "running": entry.running,
        "waiting": entry.waiting,
        "slots": entry.slots,
        "seconds_per_token": round(entry.seconds_per_token, 6),
        "prefixes": entry.prefixes[-prefixes:] if prefixes else (),
    }
    return json.dumps(shown, separators=(",", ":"))


def _revision_read(said: Any) -> RevisionEntry:
    return RevisionEntry(
        held=_of(said, "held", bool),
        keys=_words(said, "keys", _MOST_KEYS),
        leases=_count(said, "leases"),
        running=_count(said, "running"),
        waiting=_count(said, "waiting"),
        slots=_count(said, "slots"),
        seconds_per_token=_seconds(said),
        prefixes=_words(said, "prefixes", _MOST_PREFIXES),
    )


def _of(said: Any, name: str, kind: type) -> Any:
    if not isinstance(said, dict) or type(said.get(name)) is not kind:
        raise ValueError(f"{name} is not what it should be")
    return said[name]


def _count(said: Any, name: str) -> int:
    count: int = _of(said, name, int)
    if not 0 <= count <= _MOST_COUNT:
        raise ValueError(f"{name} is not a count")
    return count


def _seconds(said: Any) -> float:
    value: Any = said.get("seconds_per_token") if isinstance(said, dict) else None
    if type(value) not in (int, float) or not 0 <= value <= 3600 or not math.isfinite(value):
        raise ValueError("seconds_per_token is not a time")
    return float(value)


def _words(said: Any, name: str, most: int) -> tuple[str, ...]:
    words = _of(said, name, list)
    if len(words) > most or not all(isinstance(word, str) and len(word) <= 300 for word in words):
        raise ValueError(f"{name} are not words")
    return tuple(words)


def _address(said: Any) -> str:
    address: str = _of(said, "address", str)
    if len(address) > 300:
        raise ValueError("the address is too long")
    return address
