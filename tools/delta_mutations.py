"""What a hostile or broken peer may do to a delta. Each mutation takes a delta apart a little more, in place."""

import re
from collections.abc import Callable

import numpy as np
import zstandard
from delta_surgery import COLUMNS, Anatomy

Random = np.random.Generator
Mutation = Callable[[Random, Anatomy], None]

_INTERESTING = (
    0,
    1,
    2,
    3,
    31,
    32,
    127,
    128,
    255,
    256,
    1 << 15,
    1 << 16,
    1 << 22,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
)
_FRAME = b"\x28\xb5\x2f\xfd"
_MAX_INSIDE_BYTES = 1 << 23
_MANY_BYTES = 1 << 24


def mutate(random: Random, data: bytes, most: int = 4, within: int = 0) -> bytes:
    """Some bytes of `data` changed, or of its first `within` bytes; of the same length."""
    changed = bytearray(data)
    for _ in range(int(random.integers(1, most + 1))):
        if changed:
            place = int(random.integers(min(len(changed), within or len(changed))))
            value = [int(random.integers(256)), 0, 255, changed[place] ^ (1 << int(random.integers(8)))]
            changed[place] = value[int(random.integers(4))]
    return bytes(changed)


def _fields(random: Random, delta: Anatomy) -> None:
    for _ in range(int(random.integers(1, 4))):
        name = str(random.choice(list(COLUMNS)))
        if column := delta.columns[name]:
            place = int(random.integers(len(column)))
            bits = 8 * np.dtype(COLUMNS[name]).itemsize
            column[place] = _number(random, column[place]) % (1 << bits)


def _number(random: Random, was: int) -> int:
    choice = [was + 1, was - 1, was * 2, was // 2, int(random.integers(1 << 20)), int(random.choice(_INTERESTING))]
    return choice[int(random.integers(len(choice)))]


def _types(random: Random, delta: Anatomy) -> None:
    """Other types and rows than the codec was made for, everything else in order."""
    known = [*range(42), 255]
    place = int(random.integers(len(delta.columns["type"])))
    delta.columns[str(random.choice(["type", "source_type"]))][place] = int(random.choice(known))
    if random.random() < 0.5:
        rows = delta.columns["row_elements"]
        rows[place] = _number(random, rows[place]) % (1 << 32)


def _codecs(random: Random, delta: Anatomy) -> None:
    """Another codec for a part that has a payload."""
    paid = [number for number, length in enumerate(delta.columns["payload_bytes"]) if length]
    if paid:
        delta.columns["codec"][int(random.choice(paid))] = int(random.integers(1, 8))


def _lengths(random: Random, delta: Anatomy) -> None:
    """A part that makes more or less, in a target of just that size."""
    made = delta.columns["made"]
    place = int(random.integers(len(made)))
    made[place] = max(1, min(_number(random, made[place]), 1 << 22))
    delta.target = (delta.target[0], sum(made))


def _sources(random: Random, delta: Anatomy) -> None:
    """A part that reads elsewhere, inside the source."""
    place = int(random.integers(len(delta.columns["codec"])))
    size = delta.source[1]
    start = int(random.integers(size))
    delta.columns["source_offset"][place] = start
    if random.random() < 0.5:
        delta.columns["source_bytes"][place] = int(random.integers(size - start + 1))


def _payload(change: Callable[[Random, bytes], bytes]) -> Mutation:
    """Change one payload; lengths, packs and digests follow, so that its codec gets to see it."""

    def mutation(random: Random, delta: Anatomy) -> None:
        payloads = delta.payloads()
        paid = [number for number, payload in enumerate(payloads) if payload]
        if paid:
            place = int(random.choice(paid))
            payloads[place] = change(random, payloads[place])
            delta.put_payloads(payloads)

    return mutation


def _other_length(random: Random, payload: bytes) -> bytes:
    if random.random() < 0.5:
        return payload[: int(random.integers(1, len(payload) + 1))]
    return payload + random.bytes(int(random.integers(1, 900)))


def _spliced(random: Random, payload: bytes) -> bytes:
    start, end = sorted(int(place) for place in random.integers(0, len(payload) + 1, 2))
    return payload[:start] + random.bytes(int(random.integers(0, 16))) + payload[end:] or b"\0"


def _inside_a_frame(random: Random, payload: bytes) -> bytes:
    """Change what a zstd frame of the payload holds, not the frame."""
    starts = [found.start() for found in re.finditer(re.escape(_FRAME), payload)]
    if not starts:
        return mutate(random, payload)
    start = int(random.choice(starts))
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    try:
        held = decompressor.decompress(payload[start:])
    except zstandard.ZstdError:
        return mutate(random, payload)
    if not decompressor.eof or len(held) > _MAX_INSIDE_BYTES:
        return mutate(random, payload)
    rest = decompressor.unused_data
    other = mutate(random, held) if random.random() < 0.8 else _other_length(random, held or b"\0")
    return payload[:start] + zstandard.ZstdCompressor(level=1).compress(other) + rest


def _exchanged(random: Random, delta: Anatomy) -> None:
    """The payloads of two parts in each other's place."""
    payloads = delta.payloads()
    paid = [number for number, payload in enumerate(payloads) if payload]
    if paid:
        one, other = (int(place) for place in random.choice(paid, 2))
        payloads[one], payloads[other] = payloads[other], payloads[one]
        delta.put_payloads(payloads)


def _packs(random: Random, delta: Anatomy) -> None:
    """Packs in another order, missing, twice, or not what the index says."""
    if not delta.packs:
        return
    place = int(random.integers(len(delta.packs)))
    match int(random.integers(5)):
        case 0:
            delta.packs = [delta.packs[number] for number in random.permutation(len(delta.packs))]
        case 1:
            del delta.packs[place]
        case 2:
            delta.packs.insert(place, delta.packs[place])
        case 3:
            delta.packs[place] = mutate(random, delta.packs[place], most=16)
        case _:
            delta.packs[place] = _other_length(random, delta.packs[place])


def _many(random: Random, delta: Anatomy) -> None:
    """Every part many times, in a target of just that size."""
    times = max(2, min(int(random.integers(2, 60)), _MANY_BYTES // sum(delta.columns["made"])))
    for name in ("codec", "made", "source_offset", "source_bytes", "payload_bytes"):
        delta.columns[name] *= times
    delta.columns["parts"] = [count * times for count in delta.columns["parts"]]
    delta.columns["in_pack"] = [count * times for count in delta.columns["in_pack"]]
    delta.packs = [pack * times for pack in delta.packs]
    delta.settle_packs()
    delta.target = (delta.target[0], sum(delta.columns["made"]))


MUTATIONS: dict[str, Mutation] = {
    "fields": _fields,
    "types": _types,
    "codecs": _codecs,
    "lengths": _lengths,
    "sources": _sources,
    "payload bytes": _payload(mutate),
    "payload head": _payload(lambda random, payload: mutate(random, payload, within=24)),
    "payload length": _payload(_other_length),
    "payload splice": _payload(_spliced),
    "inside a frame": _payload(_inside_a_frame),
    "exchanged": _exchanged,
    "packs": _packs,
    "many": _many,
}
