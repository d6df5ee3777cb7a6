"""A limit on what a node fetches: by time of day, shared, and deaf to jumps of the clock."""

import asyncio
import datetime as dt

import pytest

from deltaic.transfer.errors import BadRateSchedule
from deltaic.transfer.rate_limit import RateLimit, TokenBucket
from deltaic.transfer.rate_schedule import RateSchedule

MIB = 1 << 20
OFFICE = "08:00-18:00=2MiB, 18:00-08:00=unlimited"


class Clocks:
    """A clock that only goes on while somebody sleeps, and a wall clock that can be set."""

    def __init__(self) -> None:
        self.now = 5.0
        self.wall = dt.datetime(2026, 5, 4, 9, 0, tzinfo=dt.UTC)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.wall += dt.timedelta(seconds=seconds)
        await asyncio.sleep(0)

    def limit(self, schedule: str) -> RateLimit:
        parsed = RateSchedule.parse(schedule)
        wall = lambda: self.wall.time()  # noqa: E731, PLW0108  # the clock on the wall is replaced by another
        return RateLimit(parsed, clock=lambda: self.now, time_of_day=wall, sleep=self.sleep)


async def spend(limit: RateLimit, count: int, piece: int = 64 * 1024) -> None:
    for _ in range(count // piece):
        ticket = limit.take(piece)
        while not await limit.wait(ticket, at_most=1.0):
            pass


@pytest.mark.parametrize(
    ("text", "hour", "minute", "rate"),
    [
        ("", 12, 0, None),
        ("unlimited", 12, 0, None),
        ("2MiB", 3, 0, 2 * MIB),
        ("500 kB/s", 3, 0, 500_000),
        (OFFICE, 7, 59, None),
        (OFFICE, 8, 0, 2 * MIB),
        (OFFICE, 17, 59, 2 * MIB),
        (OFFICE, 18, 0, None),
        ("22:00-06:00=unlimited, 00:00-24:00=1MiB", 23, 0, None),
        ("22:00-06:00=unlimited, 00:00-24:00=1MiB", 5, 59, None),
        ("22:00-06:00=unlimited, 00:00-24:00=1MiB", 6, 0, MIB),
        ("08:00-12:00=0", 9, 0, 0),
        ("08:00-12:00=0", 13, 0, None),
    ],
)
def test_the_first_window_that_contains_the_time_counts(text: str, hour: int, minute: int, rate: int | None) -> None:
    assert RateSchedule.parse(text).rate_at(dt.time(hour, minute)) == rate


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("quick", "number of bytes"),
        ("-2MiB", "number of bytes"),
        ("08:00-18:00", "number of bytes"),
        ("08:00=2MiB", "not a window"),
        ("8-18=2MiB", "not a window"),
        ("08:00-25:00=2MiB", "not a time of day"),
        ("08:60-09:00=2MiB", "not a time of day"),
        ("08:00-08:00=2MiB", "without a length"),
        ("24:00-08:00=2MiB", "without a length"),
        ("08:00-18:00=", "not a window"),
        ("2MiB, 3MiB", "not a window"),
    ],
)
def test_what_makes_no_sense_is_refused_with_an_example(text: str, word: str) -> None:
    with pytest.raises(BadRateSchedule, match=word) as raised:
        RateSchedule.parse(text)
    assert raised.value.hint


async def test_bytes_take_the_time_that_the_limit_says() -> None:
    clocks = Clocks()
    await spend(clocks.limit("2MiB"), 20 * MIB)
    assert clocks.now - 5.0 == pytest.approx(10.0, abs=0.3)


async def test_without_a_limit_nobody_waits() -> None:
    clocks = Clocks()
    await spend(clocks.limit("unlimited"), 20 * MIB)
    assert clocks.now == 5.0


async def test_idleness_saves_up_no_burst() -> None:
    clocks = Clocks()
    limit = clocks.limit("2MiB")
    await spend(limit, 2 * MIB)
    await clocks.sleep(3_600)
    began = clocks.now
    await spend(limit, 20 * MIB)
    assert clocks.now - began > 9.5


async def test_all_fetches_of_a_node_share_one_limit() -> None:
    now = 0.0
    bucket, granted = TokenBucket(), {"one": 0, "other": 0}
    tickets = {name: bucket.take(MIB) for name in granted}
    while now < 10.0:
        now += 0.01
        for name, ticket in tickets.items():
            if bucket.seconds_until(ticket, now, 4 * MIB) <= 0.0:
                granted[name] += 1
                tickets[name] = bucket.take(MIB)
    assert sum(granted.values()) == pytest.approx(40, abs=2), "4 MiB a second for both together"
    assert abs(granted["one"] - granted["other"]) <= 1, "first come, first served"


async def test_a_window_that_opens_lets_those_go_who_wait() -> None:
    clocks = Clocks()
    clocks.wall = clocks.wall.replace(hour=17, minute=59, second=50)
    await spend(clocks.limit("08:00-18:00=1KiB, 18:00-08:00=unlimited"), 50 * MIB)
    assert 9.0 < clocks.now - 5.0 < 12.0


async def test_a_limit_of_nothing_waits_for_its_window_to_end() -> None:
    clocks = Clocks()
    limit = clocks.limit("08:00-12:00=0")
    assert not await limit.wait(limit.take(1), at_most=30.0)
    clocks.wall = clocks.wall.replace(hour=12)
    assert await limit.wait(limit.take(1), at_most=30.0)


@pytest.mark.parametrize("jump", [dt.timedelta(days=-400), dt.timedelta(hours=-3), dt.timedelta(days=4000)])
async def test_a_wall_clock_that_jumps_neither_starves_nor_floods(jump: dt.timedelta) -> None:
    clocks = Clocks()
    limit = clocks.limit("2MiB")
    await spend(limit, 10 * MIB)
    clocks.wall += jump
    await spend(limit, 10 * MIB)
    assert clocks.now - 5.0 == pytest.approx(10.0, abs=0.3)


def test_a_clock_that_stands_still_or_steps_back_makes_no_tokens() -> None:
    bucket = TokenBucket()
    bucket.seconds_until(bucket.take(0), 100.0, MIB)
    ticket = bucket.take(10 * MIB)
    assert bucket.seconds_until(ticket, 100.0, MIB) == pytest.approx(10.0, abs=0.3)
    assert bucket.seconds_until(ticket, 50.0, MIB) == pytest.approx(10.0, abs=0.3)
