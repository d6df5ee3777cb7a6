"""How often a model is asked for, by habit too; what loads cost; what a restart knows of both."""

import json

import pytest

from edge.hot.load_costs import START_SECONDS, Load, LoadCosts, Tier
from edge.hot.page_cache import cached_share
from edge.hot.rates import MOST, Rates
from edge.hot.remembered import NAME, Remembered

MONDAY = 4 * 86_400.0  # 5 January 1970
HOUR, DAY = 3600.0, 86_400.0


def weekdays_at_eight(rates: Rates, days: int) -> None:
    for day in range(days):
        if day % 7 < 5:
            rates.record("job", MONDAY + day * DAY + 8 * HOUR + 60)


def test_who_is_asked_for_more_often_has_the_higher_rate():
    rates = Rates()
    for hour in range(48):
        rates.record("hourly", MONDAY + hour * HOUR)
        if hour % 6 == 0:
            rates.record("seldom", MONDAY + hour * HOUR)
    now = MONDAY + 48 * HOUR
    assert rates.rate("hourly", now) > 3 * rates.rate("seldom", now) > 0
    assert rates.rate("never", now) == 0


def test_the_steady_rate_is_about_the_visits_a_second():
    rates = Rates()
    for hour in range(14 * 24):
        rates.record("hourly", MONDAY + hour * HOUR)
    assert rates.rate("hourly", MONDAY + 14 * DAY - 60) == pytest.approx(1 / HOUR, rel=0.2)


def test_a_burst_is_one_visit_and_its_next_request_is_near():
    rates = Rates()
    for place in range(10):
        rates.record("burst", MONDAY + place * 20)
    rates.record("single", MONDAY)
    end = MONDAY + 180
    assert rates.rate("burst", end) > 1 / 100
    assert rates.rate("burst", end + HOUR) == pytest.approx(rates.rate("single", end + HOUR))


def test_the_rate_fades_when_nobody_asks():
    rates = Rates()
    for hour in range(24):
        rates.record("once liked", MONDAY + hour * HOUR)
    later = [rates.rate("once liked", MONDAY + days * DAY) for days in (2, 4, 8)]
    assert later[0] > later[1] > later[2]


def test_what_every_weekday_brings_at_eight_is_expected_then():
    rates = Rates()
    weekdays_at_eight(rates, 12)
    monday = MONDAY + 14 * DAY
    at_night, rate_at_night = rates.ahead("job", monday + 2 * HOUR, HOUR), rates.rate("job", monday + 2 * HOUR)
    assert rates.ahead("job", monday + 8 * HOUR, HOUR) > 2 * at_night
    assert rates.rate("job", monday + 7.9 * HOUR) > 2 * rate_at_night


def test_once_the_visit_of_this_hour_has_come_no_other_is_expected_for_it():
    rates = Rates()
    weekdays_at_eight(rates, 5)
    monday = MONDAY + 7 * DAY
    before = rates.rate("job", monday + 8 * HOUR + 30)
    rates.record("job", monday + 8 * HOUR + 60)
    assert rates.rate("job", monday + 8.5 * HOUR) < before


def test_a_new_revision_inherits_who_asks_for_it():
    rates = Rates()
    for hour in range(5):
        rates.record("old", MONDAY + hour * HOUR)
    rates.inherit("new", "old")
    now = MONDAY + 6 * HOUR
    assert rates.rate("new", now) == rates.rate("old", now) > 0
    rates.record("new", now)
    assert rates.rate("new", now) > rates.rate("old", now)


def test_a_clock_that_is_set_back_neither_fails_nor_counts():
    rates = Rates()
    rates.record("m", MONDAY)
    rates.record("m", MONDAY - DAY)
    assert 0 < rates.rate("m", MONDAY - DAY) < 1


def test_no_more_models_are_remembered_than_configured():
    rates = Rates()
    for number in range(MOST + 10):
        rates.record(f"m{number}", MONDAY + number)
    assert len(rates.names()) == MOST
    assert rates.rate("m0", MONDAY + MOST) == 0


def test_a_load_costs_what_is_supposed_until_it_is_measured():
    costs = LoadCosts()
    guess = [costs.seconds("m", 1 << 30, tier) for tier in Tier]
    assert guess == sorted(guess)
    for _ in range(20):
        costs.measured(Load("m", 1 << 30, Tier.DISK, 40.0))
    assert costs.seconds("m", 1 << 30, Tier.DISK) == pytest.approx(40.0)
    others = costs.seconds("other", 2 << 30, Tier.DISK)
    assert others == pytest.approx(2 * (40.0 - START_SECONDS), rel=0.05)
    assert costs.seconds("other", 2 << 30, Tier.PEER) == pytest.approx(LoadCosts().seconds("other", 2 << 30, Tier.PEER))


@pytest.mark.parametrize(("size", "seconds"), [(0, 1.0), (10, 0.0), (10, -1.0), (10, float("nan")), (10, float("inf"))])
def test_a_measurement_that_says_nothing_changes_nothing(size, seconds):
    costs = LoadCosts()
    costs.measured(Load("m", size, Tier.DISK, seconds))
    assert costs.dump() == LoadCosts().dump()


def test_one_load_that_hung_does_not_make_its_tier_look_broken():
    costs = LoadCosts()
    for _ in range(20):
        costs.measured(Load("m", 1 << 30, Tier.DISK, 5.0))
    costs.measured(Load("hung", 1 << 30, Tier.DISK, 500.0))
    assert costs.seconds("other", 1 << 30, Tier.DISK) < 25


def remembered(folder):
    costs, rates = LoadCosts(), Rates()
    return Remembered(folder / NAME, costs, rates), costs, rates


def test_a_restart_knows_what_loads_cost_and_who_is_asked_for(tmp_path):
    before, costs, rates = remembered(tmp_path)
    costs.measured(Load("job", 1 << 30, Tier.DISK, 40.0))
    weekdays_at_eight(rates, 12)
    before.save(before.taken())
    after, costs_after, rates_after = remembered(tmp_path)
    after.load()
    assert costs_after.dump() == costs.dump()
    for days, hour in ((14, 8), (14, 2), (19, 8)):
        now = MONDAY + days * DAY + hour * HOUR
        assert rates_after.rate("job", now) == pytest.approx(rates.rate("job", now), rel=1e-3)


def damaged():
    before = Remembered(None, LoadCosts(), Rates())
    weekdays_at_eight(before._rates, 3)
    good = before.taken()
    yield "empty", b""
    yield "cut", good[:-20]
    yield "no JSON", b"\xff\xfe garbage"
    yield "another version", good.replace(b'"version":1', b'"version":2')
    yield "an array", b"[]"
    yield "a deep one", b"[" * 100_000
    for place in ("load_costs", "rates"):
        for value in (None, [], {"x": 1}, {"x": [1] * 8}, {"x": [float("inf")] * 5 + [1, 1, {}]}):
            yield f"{place} = {value}", json.dumps({**json.loads(good), place: value}).encode()


@pytest.mark.parametrize(("what", "data"), [pytest.param(*each, id=each[0]) for each in damaged()])
def test_a_damaged_file_leaves_what_is_supposed_without_it(what, data, tmp_path):
    (tmp_path / NAME).write_bytes(data)
    after, costs, rates = remembered(tmp_path)
    after.load()
    assert rates.dump() == {}
    assert costs.seconds("m", 1 << 30, Tier.CENTER) > costs.seconds("m", 1 << 30, Tier.DISK) > 0


def test_a_disk_that_does_not_take_it_costs_only_the_memory(tmp_path):
    remembered(tmp_path / "absent")[0].save(b"{}")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_just_written_is_near_and_one_that_is_absent_is_not(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(bytes(1 << 20))
    assert cached_share(path) in (0.0, 1.0)  # 0.0 where the file system does not say
    assert cached_share(tmp_path / "absent") == 0.0
