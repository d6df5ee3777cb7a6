"""How many bytes a second a node may fetch, by time of day, as people write it.

    2MiB                                          always
    08:00-18:00=2MiB, 18:00-08:00=unlimited       by local time; a window may pass midnight
    08:00-12:00=0                                 nothing in the morning, everything else without limit

The first window that contains the time counts; outside of all windows there is no limit.
"""

import re
from dataclasses import dataclass
from datetime import time

from pydantic import ByteSize, TypeAdapter

from deltaic.transfer.errors import BadRateSchedule

_WINDOW = re.compile(r"(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})\s*=\s*(.+)")
_SIZE = re.compile(r"\d+(\.\d+)?\s*[A-Za-z]*")
_UNLIMITED = "unlimited"
_BYTES: TypeAdapter[ByteSize] = TypeAdapter(ByteSize)
_MINUTES_A_DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class RateWindow:
    """Minutes of a day, the end excluded, and what they allow."""

    start: int
    end: int
    """At most 1,440; at or before the start when the window passes midnight."""
    rate: int | None
    """Bytes a second; None is unlimited."""

    def contains(self, minute: int) -> bool:
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end


@dataclass(frozen=True, slots=True)
class RateSchedule:
    """Windows in the order written."""

    windows: tuple[RateWindow, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "RateSchedule":
        """Read a schedule; an empty one limits nothing. Raises BadRateSchedule."""
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if len(parts) == 1 and "=" not in parts[0]:
            return cls((RateWindow(0, _MINUTES_A_DAY, _rate(parts[0])),))
        return cls(tuple(_window(part) for part in parts))

    def rate_at(self, local: time) -> int | None:
        """Bytes a second at this time of day; None is unlimited."""
        minute = local.hour * 60 + local.minute
        return next((each.rate for each in self.windows if each.contains(minute)), None)


def _window(text: str) -> RateWindow:
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise BadRateSchedule(
            f"not a window of a rate limit: {text!r}", hint="write 08:00-18:00=2MiB, or one size such as 2MiB alone"
        )
    start, end = _minute(match[1], match[2], text), _minute(match[3], match[4], text)
    if start in (end, _MINUTES_A_DAY):
        raise BadRateSchedule(f"a window without a length: {text!r}", hint="write 00:00-24:00 for the whole day")
    return RateWindow(start, end, _rate(match[5]))


def _minute(hours: str, minutes: str, text: str) -> int:
    minute = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or minute > _MINUTES_A_DAY:
        raise BadRateSchedule(f"not a time of day: {hours}:{minutes} in {text!r}", hint="write 00:00 to 24:00")
    return minute


def _rate(text: str) -> int | None:
    text = text.strip().removesuffix("/s").strip()
    if text == _UNLIMITED:
        return None
    try:
        if not _SIZE.fullmatch(text):
            raise ValueError
        return int(_BYTES.validate_python(text))
    except ValueError:  # pydantic's are ValueErrors too
        raise BadRateSchedule(f"not a number of bytes a second: {text!r}", hint="write 2MiB, or unlimited") from None
