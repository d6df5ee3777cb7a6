"""Counts of requests: totals for reports, absolute buckets for the index."""

from edge.statistics import KEEP_MINUTES, MAX_BUCKETS, Bucket, Outcome, RequestStatistics


class Clock:
    def __init__(self) -> None:
        self.seconds = 600.0

    def __call__(self) -> float:
        return self.seconds


def test_totals_count_every_outcome_once():
    statistics = RequestStatistics(Clock())
    for outcome in (Outcome.ANSWERED, Outcome.ANSWERED, Outcome.FORWARDED, Outcome.FAILED):
        statistics.record("assistant", outcome)
    totals = statistics.totals()
    assert (totals.answered, totals.forwarded, totals.failed, totals.kept_local) == (2, 1, 1, 0)


def test_a_change_is_given_once_and_as_the_whole_count():
    statistics = RequestStatistics(Clock())
    statistics.record("assistant", Outcome.ANSWERED)
    assert statistics.take_changed() == {Bucket(10, "assistant"): {"answered": 1}}
    assert statistics.take_changed() == {}
    statistics.record("assistant", Outcome.ANSWERED)
    assert statistics.take_changed() == {Bucket(10, "assistant"): {"answered": 2}}


def test_minutes_are_counted_apart():
    clock = Clock()
    statistics = RequestStatistics(clock)
    statistics.record("assistant", Outcome.ANSWERED)
    clock.seconds += 60
    statistics.record("assistant", Outcome.FAILED)
    assert statistics.take_changed() == {
        Bucket(10, "assistant"): {"answered": 1},
        Bucket(11, "assistant"): {"failed": 1},
    }


def test_what_was_taken_and_lost_is_given_again():
    statistics = RequestStatistics(Clock())
    statistics.record("assistant", Outcome.ANSWERED)
    taken = statistics.take_changed()
    statistics.mark_all_changed()
    assert statistics.take_changed() == taken


def test_old_minutes_are_forgotten_but_not_their_totals():
    clock = Clock()
    statistics = RequestStatistics(clock)
    statistics.record("assistant", Outcome.ANSWERED)
    clock.seconds += 60 * (KEEP_MINUTES + 1)
    statistics.record("coder", Outcome.ANSWERED)
    statistics.mark_all_changed()
    assert [bucket.model for bucket in statistics.take_changed()] == ["coder"]
    assert statistics.totals().answered == 2


def test_a_flood_of_invented_names_does_not_grow_the_memory():
    statistics = RequestStatistics(Clock())
    for number in range(MAX_BUCKETS + 500):
        statistics.record(f"model-{number}", Outcome.FAILED)
    statistics.mark_all_changed()
    assert len(statistics.take_changed()) == MAX_BUCKETS
