"""Trying again: delays grow, spread and end."""

import pytest

from deltaic.errors import Code, DataLoss, Unavailable
from deltaic.rpc.status import RemoteError
from deltaic.transfer.backoff import Attempts, Backoff, Retry, may_pass
from deltaic.transfer.errors import LineLost


def test_delays_double_up_to_the_longest() -> None:
    backoff = Backoff(1.0, 5.0, lambda: 1.0)
    assert [backoff.next_delay() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_delays_spread_over_their_upper_half() -> None:
    assert Backoff(4.0, 60.0, lambda: 0.0).next_delay() == 2.0
    assert Backoff(4.0, 60.0, lambda: 1.0).next_delay() == 4.0


def test_a_thousand_failures_do_not_overflow() -> None:
    backoff = Backoff(0.1, 60.0, lambda: 1.0)
    assert {backoff.next_delay() for _ in range(5_000)} >= {60.0}


async def test_failures_in_a_row_end_in_line_lost() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    attempts = Attempts(Retry(failures=4, first_delay=1.0, longest_delay=60.0, random=lambda: 1.0, sleep=sleep))
    for expected in (1.0, 2.0, 4.0):
        await attempts.failed(Unavailable("cut"), attempts.waits)
        assert slept[-1] == expected
    with pytest.raises(LineLost, match="4 attempts in a row"):
        await attempts.failed(Unavailable("cut"), attempts.waits)


async def test_one_byte_starts_the_count_again() -> None:
    async def sleep(_seconds: float) -> None:
        return

    attempts = Attempts(Retry(failures=2, sleep=sleep))
    for _ in range(20):
        await attempts.failed(Unavailable("cut"), attempts.waits)
        attempts.progress()
    assert attempts.waits == 20


async def test_streams_that_met_the_same_cut_wait_once() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    attempts = Attempts(Retry(failures=3, sleep=sleep))
    for _ in range(10):
        await attempts.failed(Unavailable("cut"), 0)
    assert len(slept) == 1


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (Unavailable("cut"), True),
        (RemoteError(Code.INTERNAL, "INTERNAL", "garbled"), True),
        (RemoteError(Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", "busy"), True),
        (RemoteError(Code.RESOURCE_EXHAUSTED, "DISK_FULL", "full"), False),
        (RemoteError(Code.PERMISSION_DENIED, "ROLE_MISSING", "no"), False),
        (RemoteError(Code.UNIMPLEMENTED, "UNIMPLEMENTED", "no"), False),
        (DataLoss("rotten"), False),
    ],
)
def test_what_is_worth_another_try(error: Exception, passes: bool) -> None:
    assert may_pass(error) is passes  # type: ignore[arg-type]
