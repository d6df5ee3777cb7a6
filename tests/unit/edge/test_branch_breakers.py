"""A place that fails is left alone for a while, and tried again with one request."""

from hypothesis import given
from hypothesis import strategies as st

from edge.branch.breakers import MOST_PLACES, Breaker, BreakerLimits, Breakers, State

LIMITS = BreakerLimits(failures=3, first_seconds=1.0, longest_seconds=4.0)


def opened() -> Breaker:
    breaker = Breaker(LIMITS)
    for _ in range(3):
        breaker.failed(0.0)
    return breaker


def test_it_opens_after_failures_in_a_row_and_a_success_between_them_forgives():
    breaker = Breaker(LIMITS)
    for _ in range(5):
        breaker.failed(0.0)
        breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.state(0.0) is State.CLOSED
    for _ in range(3):
        breaker.failed(0.0)
    assert (breaker.state(0.5), breaker.allows(0.5)) == (State.OPEN, False)


def test_half_open_it_lets_one_request_through_at_a_time():
    breaker = opened()
    assert [breaker.begin(1.0), breaker.begin(1.0)] == [True, False]
    breaker.left()
    assert breaker.begin(1.0), "whoever was trying went away"
    breaker.succeeded()
    assert breaker.state(1.0) is State.CLOSED


def test_each_failed_trial_doubles_the_wait_up_to_the_longest():
    breaker, now, waits = opened(), 1.0, []
    for _ in range(4):
        assert breaker.begin(now)
        breaker.failed(now)
        began = now
        while not breaker.allows(now):
            now += 0.5
        waits.append(now - began)
    assert waits == [2.0, 4.0, 4.0, 4.0]


def test_requests_that_were_under_way_when_it_opened_do_not_prolong_it():
    breaker = opened()
    breaker.failed(0.9)
    assert breaker.allows(1.0)


STEPS = st.lists(st.tuples(st.floats(0.0, 3.0), st.sampled_from(["begin", "succeeded", "failed", "left"])), max_size=60)


@given(STEPS)
def test_whatever_happens_it_lets_somebody_try_within_the_longest_wait(steps):
    breaker, now, trying = Breaker(LIMITS), 0.0, 0
    for passed, what in steps:
        now += passed
        if what == "begin":
            before = breaker.state(now)
            began = breaker.begin(now)
            assert began == (before is State.CLOSED or (before is State.HALF_OPEN and trying == 0))
            trying = trying + began if before is State.HALF_OPEN else 0
        elif what == "failed":
            breaker.failed(now)
            trying = 0
        else:
            getattr(breaker, what)()
            trying = 0
        if what == "succeeded":
            assert breaker.state(now) is State.CLOSED
    breaker.left()
    assert breaker.begin(now + LIMITS.longest_seconds)


def test_places_that_nobody_asks_for_are_forgotten():
    breakers = Breakers(LIMITS)
    for _ in range(3):
        breakers["old"].failed(0.0)
    assert not breakers.allows("old", 0.5)
    for number in range(MOST_PLACES):
        breakers[f"place {number}"].failed(0.0)
    assert breakers.allows("old", 0.5)
    assert len(breakers.states(0.5)) == MOST_PLACES
