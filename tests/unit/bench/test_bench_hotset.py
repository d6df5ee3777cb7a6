"""The simulation behind `make bench-hotset`: the same for the same seed, inside its budget, and it knows the better."""

import pytest
from hotset_machine import Machine, Simulation
from hotset_trace import DAY, GB, Shape, make_trace

from edge.hot.policy import LeastExpectedCost
from edge.hot.rates import Rates
from edge.hot.rivals import GDSF, ByteLRU, CountLRU, LargestFirst, Sieve

SHORT = Shape(days=2)


def test_a_trace_is_made_by_its_seed_alone():
    assert make_trace(SHORT, 3) == make_trace(SHORT, 3)
    assert make_trace(SHORT, 3) != make_trace(SHORT, 4)


def test_a_trace_has_models_of_many_sizes_and_more_requests_by_day():
    trace = make_trace(Shape(), 1)
    assert len(trace.models) >= 24
    assert min(model.size for model in trace.models) * 50 < max(model.size for model in trace.models)
    at_noon = sum(10 <= at % DAY / 3600 < 14 for at, _ in trace.requests)
    at_night = sum(at % DAY / 3600 < 4 for at, _ in trace.requests)
    assert at_noon > 4 * at_night
    assert [at for at, _ in trace.requests] == sorted(at for at, _ in trace.requests)


@pytest.mark.parametrize("make", [ByteLRU, lambda: CountLRU(4), LargestFirst, GDSF, Sieve])
def test_every_policy_answers_every_request_inside_its_budget(make):
    trace = make_trace(SHORT, 2)
    outcome = Simulation(trace, Machine(40 * GB, 10 * GB), make(), 2).run()
    assert outcome.requests == len(trace.requests)
    assert len({name for _, name in trace.requests}) <= outcome.loads <= outcome.requests
    assert outcome.load_seconds > outcome.loads * 0.3


def test_with_room_for_all_every_model_is_loaded_once():
    trace = make_trace(SHORT, 2)
    total = sum(model.size for model in trace.models)
    outcome = Simulation(trace, Machine(total, 0), ByteLRU(), 2).run()
    assert outcome.loads == len({name for _, name in trace.requests})


def test_prefetch_makes_requests_wait_less_and_its_work_is_counted():
    trace, machine = make_trace(Shape(), 1), Machine(50 * GB, 10 * GB)
    alone = Simulation(trace, machine, LeastExpectedCost(Rates()), 1).run()
    rates = Rates()
    ours = Simulation(trace, machine, LeastExpectedCost(rates), 1).run(rates)
    assert alone.background_seconds == 0 < ours.background_seconds
    assert ours.load_seconds < alone.load_seconds


def test_a_model_that_fits_into_no_budget_is_said():
    with pytest.raises(ValueError, match="does not fit"):
        Simulation(make_trace(SHORT, 2), Machine(1, 0), ByteLRU(), 2).run()
