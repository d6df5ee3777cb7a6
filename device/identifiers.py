"""Numbers that name a person or an account and carry a check digit. Pure; the arithmetic is python-stdnum's.

A number may be written in groups ("4111 1111 1111 1111"), so whole groups are joined before they are checked. Both the
groups looked at and the digits joined are bounded, which keeps the work linear in the length of the text.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from stdnum import iban, luhn
from stdnum.br import cpf
from stdnum.ca import sin
from stdnum.cn import ric, uscc
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.exceptions import ValidationError
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.in_ import aadhaar
from stdnum.it import codicefiscale
from stdnum.kr import rrn
from stdnum.pl import pesel
from stdnum.us import ssn


class NumberKind(StrEnum):
    """What a number is."""

    CARD_NUMBER = "CARD_NUMBER"
    IBAN = "IBAN"
    CN_RESIDENT_ID = "CN_RESIDENT_ID"
    CN_CREDIT_CODE = "CN_CREDIT_CODE"
    BR_CPF = "BR_CPF"
    CA_SIN = "CA_SIN"
    DE_TAX_ID = "DE_TAX_ID"
    ES_ID = "ES_ID"
    FR_NIR = "FR_NIR"
    GB_NHS = "GB_NHS"
    IN_AADHAAR = "IN_AADHAAR"
    IT_FISCAL_CODE = "IT_FISCAL_CODE"
    KR_RRN = "KR_RRN"
    PL_PESEL = "PL_PESEL"
    US_SSN = "US_SSN"


@dataclass(frozen=True, slots=True)
class Found:
    """A number of a kind at `text[start:end]`."""

    kind: NumberKind
    start: int
    end: int


def find_numbers(text: str) -> Iterator[Found]:
    """Find every identifier, of every kind, in a text of plain characters (`device.plain_text`)."""
    yield from _find_digits(text)
    yield from _find_words(text)
    yield from _find_ibans(text)


# --- numbers of digits only, possibly in groups ---

_MOST_GROUPS = 5
_MOST_DIGITS = 19
_LONGEST_GAP = 3
_ON_A_LINE = frozenset(" \t-_./")
_ACROSS_LINES = _ON_A_LINE | {"\n"}

_Group = re.Match[str]


@dataclass(frozen=True, slots=True)
class _DigitRule:
    kind: NumberKind
    lengths: range
    holds: Callable[[str], bool]
    layout: tuple[int, ...] = ()  # sizes of the groups, where bare digits would be too common to mean anything


def _resident_id(digits: str) -> bool:
    """As `ric.validate`, but of any birthplace: an unlisted county does not make a number harmless."""
    try:
        return bool(ric.calc_check_digit(digits) == digits[-1] and ric.get_birth_date(digits))
    except ValidationError:
        return False


_DIGIT_RULES = (
    _DigitRule(NumberKind.CARD_NUMBER, range(13, 20), luhn.is_valid),
    _DigitRule(NumberKind.CN_RESIDENT_ID, range(18, 19), _resident_id),
    _DigitRule(NumberKind.BR_CPF, range(11, 12), cpf.is_valid),
    _DigitRule(NumberKind.CA_SIN, range(9, 10), sin.is_valid, (3, 3, 3)),
    _DigitRule(NumberKind.DE_TAX_ID, range(11, 12), idnr.is_valid),
    _DigitRule(NumberKind.FR_NIR, range(15, 16), nir.is_valid),
    _DigitRule(NumberKind.GB_NHS, range(10, 11), nhs.is_valid, (3, 3, 4)),
    _DigitRule(NumberKind.IN_AADHAAR, range(12, 13), aadhaar.is_valid),
    _DigitRule(NumberKind.KR_RRN, range(13, 14), rrn.is_valid),
    _DigitRule(NumberKind.PL_PESEL, range(11, 12), pesel.is_valid),
    _DigitRule(NumberKind.US_SSN, range(9, 10), ssn.is_valid, (3, 2, 4)),
)
_RULES_OF_LENGTH = {size: [rule for rule in _DIGIT_RULES if size in rule.lengths] for size in range(_MOST_DIGITS + 1)}


def _find_digits(text: str) -> Iterator[Found]:
    groups = list(re.finditer(r"[0-9]+", text))
    windows = set(_windows(groups, text, _ON_A_LINE))
    if "\n" in text:
        windows |= set(_windows(groups, text, _ACROSS_LINES))
    for first, last in windows:
        parts = [group[0] for group in groups[first : last + 1]]
        digits = "".join(parts)
        layout = tuple(map(len, parts))
        for rule in _RULES_OF_LENGTH[len(digits)]:
            if (not rule.layout or rule.layout == layout) and rule.holds(digits):
                yield Found(rule.kind, groups[first].start(), groups[last].end())


def _windows(groups: list[_Group], text: str, separators: frozenset[str]) -> Iterator[tuple[int, int]]:
    """Neighbouring groups, first and last index, that may be one number: a few groups, or all groups of a run."""
    for first, last in _runs(groups, text, separators):
        if _digits(groups, first, last) <= _MOST_DIGITS:
            yield first, last
        for start in range(first, last + 1):
            total = 0
            for end in range(start, min(start + _MOST_GROUPS, last + 1)):
                total += len(groups[end][0])
                if total > _MOST_DIGITS:
                    break
                yield start, end


def _runs(groups: list[_Group], text: str, separators: frozenset[str]) -> Iterator[tuple[int, int]]:
    first = 0
    for index, group in enumerate(groups):
        gap = text[group.end() : groups[index + 1].start()] if index + 1 < len(groups) else ""
        if not gap or len(gap) > _LONGEST_GAP or not separators.issuperset(gap):
            yield first, index
            first = index + 1


def _digits(groups: list[_Group], first: int, last: int) -> int:
    return sum(len(group[0]) for group in groups[first : last + 1])


# --- numbers with letters, written without groups ---

_WORD_RULES = (
    (NumberKind.CN_RESIDENT_ID, re.compile(r"(?<![0-9])[0-9]{17}X(?![0-9A-Z])", re.IGNORECASE), _resident_id),
    (
        NumberKind.CN_CREDIT_CODE,
        re.compile(r"(?<![0-9A-Z])[0-9A-Z]{2}[0-9]{6}[0-9A-Z]{10}(?![0-9A-Z])", re.IGNORECASE),
        uscc.is_valid,
    ),
    (NumberKind.ES_ID, re.compile(r"(?<![0-9A-Z])[0-9]{8}[ -]?[A-Z](?![0-9A-Z])", re.IGNORECASE), dni.is_valid),
    (
        NumberKind.ES_ID,
        re.compile(r"(?<![0-9A-Z])[XYZ][ -]?[0-9]{7}[ -]?[A-Z](?![0-9A-Z])", re.IGNORECASE),
        nie.is_valid,
    ),
    (
        NumberKind.IT_FISCAL_CODE,
        re.compile(r"(?<![0-9A-Z])[A-Z]{6}[0-9L-V]{2}[A-Z][0-9L-V]{2}[A-Z][0-9L-V]{3}[A-Z](?![0-9A-Z])", re.IGNORECASE),
        codicefiscale.is_valid,
    ),
)


def _find_words(text: str) -> Iterator[Found]:
    for kind, pattern, holds in _WORD_RULES:
        for match in pattern.finditer(text):
            if holds(match[0].upper()):
                yield Found(kind, match.start(), match.end())


# --- IBAN: letters and digits, usually in groups of four ---

_IBAN_START = re.compile(r"(?=([A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]){11,30}))", re.IGNORECASE)
_IBAN_SHORTEST = 15


def _find_ibans(text: str) -> Iterator[Found]:
    for match in _IBAN_START.finditer(text):
        kept = [(index, character) for index, character in enumerate(match[1].upper()) if character.isalnum()]
        for length in _lengths_with_remainder_1("".join(character for _, character in kept)):
            if iban.is_valid("".join(character for _, character in kept[:length])):
                yield Found(NumberKind.IBAN, match.start(), match.start() + kept[length - 1][0] + 1)
                break


def _lengths_with_remainder_1(compact: str) -> Iterator[int]:
    """Lengths of prefixes that pass ISO 7064 mod 97-10 with the first four characters moved to the end.

    The text after an IBAN runs on, so its end is found by its check digits; one pass, since this runs at every place
    where two letters and two digits meet.
    """
    country = (int(compact[0], 36) * 100 + int(compact[1], 36)) * 100 + int(compact[2:4])
    remainder = 0
    for length, character in enumerate(compact[4:], start=5):
        value = int(character, 36)
        remainder = (remainder * (100 if value > 9 else 10) + value) % 97
        if length >= _IBAN_SHORTEST and (remainder * 1_000_000 + country) % 97 == 1:
            yield length
