"""Who makes room: pins, leases and youth keep, expected seconds of loading decide; rivals behind the same Protocol."""

import pytest

from edge.hot.offline import Foreseeing, least_seconds
from edge.hot.policy import LeastExpectedCost, Model, Room, choose
from edge.hot.prefetch import likely
from edge.hot.rates import Rates
from edge.hot.rivals import GDSF, ByteLRU, CountLRU, LargestFirst, Sieve

NOW = 1_000_000.0
POLICIES = {
    "least expected cost": lambda: LeastExpectedCost(Rates()),
    "byte-LRU": ByteLRU,
    "count-LRU": lambda: CountLRU(2),
    "largest first": LargestFirst,
    "GDSF": GDSF,
    "SIEVE": Sieve,
    "foreseeing": lambda: Foreseeing({}),
}


def model(name: str, ram: int = 10, seconds: float = 1.0, **more) -> Model:
    return Model(name, Room(ram, more.pop("vram", 0)), seconds, **more)


@pytest.fixture(params=POLICIES)
def policy(request):
    return POLICIES[request.param]()


def told(policy, models, uses=()):
    for each in models:
        policy.used(each.name, NOW - 100)
        policy.loaded(each, NOW - 100)
    for place, name in enumerate(uses):
        policy.used(name, NOW - 50 + place)
    return policy


def test_nobody_goes_while_there_is_room(policy):
    assert choose(policy, model("new"), [model("a")], Room(10), NOW).victims == ()


def test_pinned_leased_and_young_ones_are_kept_and_then_nothing_fits(policy):
    loaded = [model("pinned", pinned=True), model("leased", leased=True), model("young", since=NOW - 4)]
    told(policy, loaded)
    choice = choose(policy, model("new"), loaded, Room(0), NOW, residency=5)
    assert (choice.victims, choice.pays) == (None, False)
    assert choose(policy, model("new"), loaded, Room(0), NOW + 1, residency=5).victims == ("young",)


def test_the_victims_have_the_room_that_is_missing(policy):
    loaded = [model(name, ram) for name, ram in zip("abcd", (5, 10, 20, 40), strict=True)]
    told(policy, loaded)
    sizes = {each.name: each.room.ram for each in loaded}
    for needed in (1, 10, 37, 75):
        victims = choose(policy, model("new", needed), loaded, Room(0), NOW).victims
        assert sum(sizes[name] for name in victims) >= needed


def test_a_model_without_memory_on_a_gpu_does_not_go_for_one_that_lacks_only_that(policy):
    loaded = [model("host", 100), model("gpu", 1, vram=50)]
    told(policy, loaded)
    assert choose(policy, model("new", 0, vram=30), loaded, Room(10, 0), NOW).victims == ("gpu",)


def test_the_one_that_is_asked_for_least_goes():
    loaded = [model("often"), model("seldom")]
    policy = told(LeastExpectedCost(Rates()), loaded)
    for hours in range(1, 5):
        policy.used("often", NOW + 3600 * hours)
    assert choose(policy, model("new"), loaded, Room(0), NOW + 6 * 3600).victims == ("seldom",)


def test_of_two_that_are_asked_for_alike_the_one_that_loads_fast_goes():
    loaded = [model("slow", seconds=30.0), model("fast", seconds=1.0)]
    policy = told(LeastExpectedCost(Rates()), loaded)
    assert choose(policy, model("new"), loaded, Room(0), NOW).victims == ("fast",)


def test_one_large_model_goes_rather_than_two_small_ones_that_cost_more_together():
    loaded = [model("large", 20, seconds=3.0), model("small", 10, seconds=1.4), model("little", 10, seconds=2.0)]
    policy = told(LeastExpectedCost(Rates()), loaded)
    assert choose(policy, model("new", 20), loaded, Room(0), NOW).victims == ("large",)


def test_loading_pays_when_it_is_asked_for_more_than_who_goes():
    loaded = [model("a")]
    policy = told(LeastExpectedCost(Rates()), loaded)
    assert not choose(policy, model("stranger"), loaded, Room(0), NOW).pays
    policy.used("wanted", NOW)
    assert choose(policy, model("wanted"), loaded, Room(0), NOW).pays


def test_byte_lru_lets_the_longest_unused_go():
    loaded = [model("a"), model("b"), model("c")]
    policy = told(ByteLRU(), loaded, uses="bca")
    assert choose(policy, model("new"), loaded, Room(0), NOW).victims == ("b",)


def test_count_lru_counts_models_before_bytes():
    loaded = [model("a"), model("b")]
    policy = told(CountLRU(2), loaded, uses="ab")
    assert policy.too_many == 1
    assert policy.victims(loaded, Room(), NOW) == ("a",)


def test_largest_first_lets_the_largest_go():
    loaded = [model("a", 10), model("b", 30), model("c", 20)]
    assert choose(LargestFirst(), model("new"), loaded, Room(0), NOW).victims == ("b",)


def test_sieve_spares_once_who_was_used_and_goes_on_where_it_stood():
    loaded = [model("a"), model("b"), model("c")]
    policy = told(Sieve(), loaded, uses="a")
    assert choose(policy, model("d"), loaded, Room(0), NOW).victims == ("b",)
    policy.gone("b")
    policy.loaded(model("d"), NOW)
    loaded = [model("a"), model("c"), model("d")]
    assert choose(policy, model("e"), loaded, Room(0), NOW).victims == ("c",)


def test_gdsf_keeps_what_is_used_often_and_lets_it_age():
    loaded = [model("old"), model("new")]
    policy = told(GDSF(), loaded, uses="ooo")
    policy.used("old", NOW)
    assert choose(policy, model("x"), loaded, Room(0), NOW).victims == ("new",)
    for _ in range(5):  # ages with everybody who goes
        policy.gone("new")
        policy.used("new", NOW)
        policy.loaded(model("new"), NOW)
        policy.victims([model("new")], Room(1), NOW)
    policy.used("new", NOW)
    assert choose(policy, model("x"), loaded, Room(0), NOW).victims == ("old",)


def test_who_knows_the_future_lets_go_of_what_is_asked_for_last():
    loaded = [model("soon"), model("later"), model("never")]
    policy = Foreseeing({"soon": [NOW + 1], "later": [NOW + 9], "never": [NOW - 5]})
    assert choose(policy, model("x"), loaded, Room(0), NOW).victims == ("never",)
    assert choose(policy, model("x"), loaded[:2], Room(0), NOW).victims == ("later",)


def test_the_bound_counts_first_loads_and_what_no_room_can_keep():
    requests = [(float(place), name) for place, name in enumerate("abab")]
    costs = {"a": 2.0, "b": 3.0}
    assert least_seconds(requests, {"a": 10, "b": 10}, costs, budget=100) == 5.0
    assert least_seconds(requests, {"a": 10, "b": 10}, costs, budget=10) == 5.0
    assert least_seconds(requests, {"a": 10, "b": 10}, costs, budget=5) == 7.0
    assert least_seconds(requests, {"a": 10, "b": 10}, costs, budget=0) == 10.0


def test_prefetch_takes_what_spares_most_and_fits_and_nothing_that_is_unlikely():
    rates = Rates()
    for hour in range(24):
        rates.record("often", NOW + hour * 3600)
        rates.record("large", NOW + hour * 3600)
    rates.record("once", NOW - 20 * 86_400)
    now = NOW + 24 * 3600
    absent = [model("large", 50, seconds=99.0), model("often", 10), model("once", 1), model("unknown", 1)]
    assert likely(rates, absent, Room(60), now).name == "large"
    assert likely(rates, absent, Room(20), now).name == "often"
    assert likely(rates, absent, Room(5), now) is None
