"""What in a text looks like a value that must not leave the device.

Detectors are a second net below the label that an application gives, not proof that a text is harmless: they know
numbers with check digits, telephone numbers and e-mail addresses. They err towards finding. A finding never carries the
value found, only its kind and place.

Time is linear in the length of the text, and a text over the limit is itself a finding. So is a detector that fails.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import phonenumbers
import structlog

from device.identifiers import find_numbers
from device.plain_text import PlainText, plain

_log = structlog.get_logger(__name__)

EMAIL_ADDRESS = "EMAIL_ADDRESS"
PHONE_NUMBER = "PHONE_NUMBER"
TOO_LONG = "TOO_LONG"
DETECTOR_FAILED = "DETECTOR_FAILED"

MOST_CHARACTERS = 32_768
PHONE_REGIONS = ("CN", "US")


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """`text[start:end]` of the text looked at is, or may be, a value of this kind."""

    start: int
    end: int
    kind: str


_Span = tuple[int, int, str]


def detect(
    text: str, *, phone_regions: Sequence[str] = PHONE_REGIONS, most_characters: int = MOST_CHARACTERS
) -> tuple[Finding, ...]:
    """Look for all kinds; findings in order of place. Never raises.

    `phone_regions` are the ISO 3166 countries whose national way of writing telephone numbers is known beside the
    international one.
    """
    if len(text) > most_characters:
        return (Finding(0, len(text), TOO_LONG),)
    try:
        read = plain(text)
    except Exception as error:  # noqa: BLE001  # failure is refusal
        return (_failed("plain_text", error, text),)
    detectors: tuple[tuple[str, Callable[[PlainText], Iterator[_Span]]], ...] = (
        ("numbers", _numbers),
        ("emails", _emails),
        ("phones", lambda read: _phones(read, phone_regions)),
    )
    found: set[Finding] = set()
    for name, detector in detectors:
        try:
            found.update(Finding(*read.original_span(start, end), kind) for start, end, kind in detector(read))
        except Exception as error:  # noqa: BLE001  # failure is refusal
            found.add(_failed(name, error, text))
    return tuple(sorted(found))


def _failed(detector: str, error: Exception, text: str) -> Finding:
    # The name of the error only: its message may quote the text.
    _log.error("egress.detector_failed", detector=detector, error=type(error).__name__)
    return Finding(0, len(text), DETECTOR_FAILED)


def _numbers(read: PlainText) -> Iterator[_Span]:
    for found in find_numbers(read.text):
        yield found.start, found.end, found.kind.value


# One character before the @ is enough to find an address; its start is looked for afterwards, so that no part of a long
# text is read twice.
_EMAIL = re.compile(r"(?<=[^\s@<>()\[\],;:\"])@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_LOCAL_PART = re.compile(r"[^\s@<>()\[\],;:\"]{1,64}\Z")


def _emails(read: PlainText) -> Iterator[_Span]:
    for match in _EMAIL.finditer(read.text):
        before = max(0, match.start() - 64)
        local = _LOCAL_PART.search(read.text[before : match.start()])
        yield (before + local.start() if local else match.start()), match.end(), EMAIL_ADDRESS


def _phones(read: PlainText, regions: Sequence[str]) -> Iterator[_Span]:
    for region in regions or ("ZZ",):
        if region != "ZZ" and region not in phonenumbers.SUPPORTED_REGIONS:
            raise ValueError(f"not a region: {region}")
        # The matcher gives up silently after `max_tries` candidates; there cannot be more than characters.
        for match in phonenumbers.PhoneNumberMatcher(read.text, region, max_tries=len(read.text) + 1):
            yield match.start, match.end, PHONE_NUMBER
