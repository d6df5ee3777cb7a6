"""How far, how fast, how long still."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaic.transfer.progress import Account, Pace, Reached


def test_what_an_attempt_fetched_stays_fetched_when_the_next_finds_it() -> None:
    account = Account()
    account.add(Reached(full=100, reused=20, fetched=50, manifest=3, wire=40))
    account.next_attempt()
    assert account.add(Reached()) == Reached(full=100, reused=20, fetched=50, manifest=3, wire=40)
    now = account.add(Reached(full=100, reused=70, fetched=10, manifest=3, wire=12))
    assert now == Reached(full=100, reused=20, fetched=60, manifest=3, wire=52)


def test_a_file_that_is_found_whole_counts_each_byte_once() -> None:
    account = Account()
    account.add(Reached(full=100, reused=20, fetched=80, manifest=3, wire=40))
    account.next_attempt()
    now = account.add(Reached(full=100, reused=100))
    assert (now.reused, now.fetched) == (20, 80)


def test_what_was_lost_in_between_is_not_said_to_be_more_than_everything() -> None:
    account = Account()
    account.add(Reached(full=100, reused=20, fetched=80))
    account.next_attempt()
    now = account.add(Reached(full=100, reused=60, fetched=40))
    assert now.fetched == 120
    assert now.reused == 0


@given(st.lists(st.lists(st.integers(0, 30), min_size=3, max_size=3), max_size=8), st.data())
def test_the_sum_never_falls_whatever_the_attempts_find(attempts: list[list[int]], data: st.DataObject) -> None:
    account, on_disk, last = Account(), 0, -1
    for resumed_less, most, wire in attempts:
        resumed = max(0, on_disk - resumed_less) if data.draw(st.booleans()) else on_disk
        fetched = min(most, 100 - resumed)
        for part in (0, fetched // 2, fetched):
            shown = account.add(Reached(full=100, reused=resumed, fetched=part, wire=wire))
            assert min(100, shown.reused + shown.fetched) >= last
            last = min(100, shown.reused + shown.fetched)
        on_disk = resumed + fetched
        account.next_attempt()


def test_a_steady_pace_is_known_at_once_and_kept() -> None:
    pace = Pace()
    for tenth in range(1, 300):
        pace.observe(tenth * 1_000, 50.0 + tenth / 10)
        if tenth > 1:
            assert pace.rate == pytest.approx(10_000, rel=0.11)


def test_a_line_that_stops_is_seen_to_stop() -> None:
    pace = Pace()
    for second in range(10):
        pace.observe(second * 1_000_000, float(second))
    before = pace.rate
    for second in range(10, 20):
        pace.observe(9_000_000, float(second))
    assert before > 900_000
    assert pace.rate < 0.2 * before
    pace.observe(9_000_000, 1_000.0)
    assert pace.rate == 0.0


def test_the_time_left_counts_on_what_compression_saves() -> None:
    pace = Pace()
    pace.observe(0, 0.0)
    pace.observe(1_000_000, 1.0)
    halved = Reached(full=10_000_000, reused=1_000_000, fetched=1_000_000, wire=500_000, arriving=0)
    assert pace.seconds_for(halved) == pytest.approx(4.0, rel=0.01)
    assert pace.seconds_for(Reached(full=10, reused=10)) == 0.0
    assert Pace().seconds_for(halved) == 0.0, "nothing is known yet"


def test_a_clock_that_steps_back_makes_no_negative_pace() -> None:
    pace = Pace()
    pace.observe(0, 100.0)
    pace.observe(1_000, 50.0)
    pace.observe(2_000, 51.0)
    assert pace.rate >= 0.0
