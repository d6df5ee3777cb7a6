"""How many seconds a request would take at a place, from what is known of the place. Pure.

seconds = load, where it is not loaded          first piece
        + queue: turns of those before us            "
        + prefill: tokens of the prompt that are     "
          not cached there
        + round trip                                 "
        + tokens of the answer x seconds a token
"""

from dataclasses import dataclass

from deltaic.v1 import inference_pb2

USUAL_TOKEN_SECONDS = 0.03
"""What nobody has measured yet: a small model on an office computer."""
_START_SECONDS = 0.7
_DISK_BYTES_A_SECOND = 250 << 20
_PREFILL_SHARE = 0.1
"""Tokens of a prompt are read many at a time: about ten in the time in which one is generated."""
_BYTES_A_TOKEN = 4
_USUAL_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens that a request is likely to take."""

    prompt_tokens: float
    answer_tokens: float


@dataclass(frozen=True, slots=True)
class Place:
    """What is known of a place that could answer; zero where it is not known.

    `load_seconds` is 0 where the model is loaded. `cached_bytes` of the prompt's beginning were read there of late.
    """

    load_seconds: float = 0.0
    running: int = 0
    waiting: int = 0
    slots: int = 0
    seconds_per_token: float = 0.0
    cached_bytes: int = 0
    round_trip: float = 0.0


@dataclass(frozen=True, slots=True)
class Expected:
    """Seconds to the first piece of an answer, and to its end."""

    first: float
    whole: float


def usual_load_seconds(size: int) -> float:
    """What loading a model file of `size` bytes from a plain disk takes."""
    return _START_SECONDS + size / _DISK_BYTES_A_SECOND


def work_of(request: inference_pb2.GenerateRequest) -> Work:
    """Nothing is tokenised for it: a token has about four bytes."""
    size = len(request.prompt.encode()) + sum(len(message.content.encode()) for message in request.messages)
    return Work(size / _BYTES_A_TOKEN, min(request.max_tokens or _USUAL_TOKENS, _USUAL_TOKENS))


def embedding_work(request: inference_pb2.EmbedRequest) -> Work:
    """Of reading texts, without an answer."""
    return Work(sum(len(text.encode()) for text in request.inputs) / _BYTES_A_TOKEN, 0.0)


def expected(place: Place, work: Work) -> Expected:
    """What this work takes at this place."""
    token = place.seconds_per_token or USUAL_TOKEN_SECONDS
    unread = max(work.prompt_tokens - place.cached_bytes / _BYTES_A_TOKEN, 0.0)
    first = place.load_seconds + _queue(place, token * _USUAL_TOKENS) + unread * token * _PREFILL_SHARE
    first += place.round_trip
    return Expected(first, first + work.answer_tokens * token)


def _queue(place: Place, turn: float) -> float:
    """Seconds until a slot is free; each of them is free about once in a `turn`."""
    ahead = place.waiting + 1 - max(place.slots - place.running, 0)
    return ahead * turn / place.slots if place.slots and ahead > 0 else 0.0
