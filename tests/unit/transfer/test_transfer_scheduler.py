"""Who brings what, simulated: no clock, no network."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_sources import MIB, Run, Sim, blobs

from deltaic.errors import Unavailable
from deltaic.transfer.errors import LineLost, SourceLacks, SourceLied
from deltaic.transfer.scheduling.window import Window

CHUNKS = blobs(64)
SIZE = 64 * MIB


def everything_once(run: Run) -> bool:
    return set(run.verified) == set(run.digests) and run.after_verified == 0


def test_two_equal_sources_share_the_work() -> None:
    run = Run(CHUNKS, [Sim(), Sim()]).to_end()
    assert everything_once(run)
    assert run.sent == SIZE
    assert min(source.sent for source in run.sources) > 0.35 * SIZE
    assert run.seconds < 0.65 * SIZE / (10 * MIB), "faster than one alone"


def test_the_faster_source_brings_the_more() -> None:
    fast, slow = Sim(rate=30 * MIB), Sim(rate=10 * MIB)
    run = Run(blobs(256), [slow, fast]).to_end()
    assert everything_once(run)
    assert fast.sent > 2 * slow.sent > 0


def test_streams_never_pass_their_bound_and_a_second_source_gets_some_of_them() -> None:
    run = Run(CHUNKS, [Sim(), Sim()], streams=4).to_end()
    assert run.most_streams == 4
    assert all(source.most_streams <= 3 for source in run.sources)


def test_one_stream_is_enough_to_fetch_everything() -> None:
    assert everything_once(Run(CHUNKS, [Sim(), Sim()], streams=1).to_end())


def test_a_silent_source_is_left_and_its_begun_blobs_go_on_elsewhere_at_the_byte_reached() -> None:
    silent = Sim(silent_from=1.0)
    run = Run(CHUNKS, [silent, Sim()]).to_end()
    assert everything_once(run)
    assert run.sent <= SIZE + run.scheduler.doubled_bytes
    assert run.seconds < 12.0


def test_a_source_far_below_the_others_does_not_hold_up_the_end() -> None:
    crawling = Sim(rate=0.1 * MIB)
    run = Run(CHUNKS, [crawling, Sim()]).to_end()
    assert everything_once(run)
    assert run.seconds < 1.4 * SIZE / (10 * MIB)
    assert run.sent <= SIZE + run.scheduler.doubled_bytes


def test_a_source_far_below_the_others_is_demoted_and_tried_again_later() -> None:
    crawling = Sim(rate=0.2 * MIB)
    run = Run(blobs(600), [crawling, Sim()])
    demoted = []
    while not run.scheduler.finished:
        run.step()
        run._start_streams()
        demoted.append(run.scheduler.scores[0].is_demoted(run.now))
    assert everything_once(run)
    first = demoted.index(True)
    assert False in demoted[first:], "it is forgotten after a while"
    assert crawling.sent < 0.03 * run.sent


def test_a_lying_source_costs_a_few_chunks_and_is_not_asked_for_them_again() -> None:
    liar = Sim(lies=lambda _digest: True)
    run = Run(CHUNKS, [liar, Sim()]).to_end()
    assert everything_once(run)
    assert 0 < run.scheduler.bad_copies <= 8
    assert run.sent <= SIZE + 8 * MIB + run.scheduler.doubled_bytes
    assert max(liar.asked.values()) == 1


def test_a_source_that_lies_now_and_then_is_used_again_when_that_is_forgotten() -> None:
    moody = Sim(lies=lambda digest: digest.sha256[-1] == 0)
    run = Run(blobs(1024), [moody, Sim()]).to_end()
    assert everything_once(run)
    assert moody.sent > 0.1 * run.sent


def test_a_copy_of_two_sources_that_is_damaged_is_fetched_whole_from_one() -> None:
    half_liar = Sim(rate=2 * MIB, lies=lambda _digest: True, silent_from=1.5)
    run = Run(blobs(2, 4 * MIB), [half_liar, Sim()]).to_end()
    assert everything_once(run)
    assert run.scheduler.bad_copies >= 1


def test_nobody_honest_is_said_after_three_copies_of_each() -> None:
    liar = Sim(lies=lambda digest: digest == CHUNKS[5])
    run = Run(CHUNKS, [liar])
    with pytest.raises(SourceLied, match="from source 0"):
        run.to_end()
    assert run.arrived[CHUNKS[5]] == 3 * MIB
    assert len(run.verified) == 63, "one bad chunk keeps no other from arriving"


def test_a_source_is_not_asked_again_for_what_it_lacks() -> None:
    poor = Sim(lacks=lambda digest: digest.sha256[-1] % 3 == 0)
    run = Run(CHUNKS, [poor, Sim()]).to_end()
    assert everything_once(run)
    assert run.sent <= SIZE + run.scheduler.doubled_bytes
    assert poor.denied
    assert max(poor.denied.values()) == 1


def test_what_everybody_lacks_is_said_when_all_the_rest_is_here() -> None:
    run = Run(CHUNKS, [Sim(lacks=lambda digest: digest == CHUNKS[9]), Sim(lacks=lambda digest: digest == CHUNKS[9])])
    with pytest.raises(SourceLacks, match="cannot be had from source 0, source 1"):
        run.to_end()
    assert len(run.verified) == 63


def test_a_source_that_said_what_it_lacks_is_never_asked_for_it() -> None:
    poor = Sim(lacks=lambda digest: digest.sha256[-1] % 2 == 0)
    run = Run(CHUNKS, [Sim(), poor])
    run.scheduler.ask_first([1])
    run._start_streams()
    assert poor.asked == {}, "it waits until it has answered"
    run.scheduler.told(1, run.scheduler.open, [digest for digest in run.scheduler.open if poor.lacks(digest)])
    run.to_end()
    assert everything_once(run)
    assert poor.asked
    assert not any(poor.lacks(digest) for digest in poor.asked)


def test_a_source_that_holds_nothing_is_used_once_it_says_otherwise() -> None:
    late = Sim(rate=40 * MIB)
    run = Run(blobs(200), [Sim(), late])
    run.scheduler.ask_first([1])
    run.scheduler.told(1, run.scheduler.open, run.scheduler.open)
    for _ in range(40):
        run._start_streams()
        run.step()
    assert late.sent == 0
    run.scheduler.told(1, run.scheduler.open, [])
    assert everything_once(run.to_end())
    assert late.sent > 50 * MIB


def test_a_dead_source_costs_nothing_but_its_demotion() -> None:
    run = Run(CHUNKS, [Sim(), Sim(dead=True)])
    run.scheduler.ask_first([1])
    run.scheduler.not_told(1, Unavailable("nobody there"), run.now)
    run.to_end()
    alone = Run(CHUNKS, [Sim()]).to_end()
    assert everything_once(run)
    assert run.seconds <= alone.seconds + 0.2
    assert run.sources[1].asked == {}


def test_what_only_a_silent_source_may_hold_is_said_to_be_lacking() -> None:
    run = Run(CHUNKS, [Sim(lacks=lambda digest: digest == CHUNKS[3]), Sim(dead=True)]).ask_all_but_the_first()
    with pytest.raises(SourceLacks, match="1 blobs cannot be had from source 0, source 1"):
        run.to_end()
    assert len(run.verified) == 63


def test_a_dead_first_source_is_replaced_by_the_second() -> None:
    run = Run(CHUNKS, [Sim(dead=True), Sim()]).to_end()
    assert everything_once(run)
    assert run.seconds < 1.3 * SIZE / (10 * MIB)


def test_all_dead_is_one_error_of_the_first() -> None:
    with pytest.raises(LineLost, match="8 attempts in a row without progress: nobody there"):
        Run(CHUNKS, [Sim(dead=True), Sim(dead=True)]).to_end()


def test_fifty_cuts_repeat_no_byte() -> None:
    cuts = [0.7 * n for n in range(1, 51)]
    run = Run(CHUNKS, [Sim(cut_at=cuts, rate=4 * MIB)]).to_end()
    assert everything_once(run)
    assert run.sent == SIZE
    assert run.scheduler.cuts >= 25


def test_a_source_behind_a_failing_line_leaves_most_to_the_one_behind_a_good_line() -> None:
    shaky = Sim(cut_at=[0.5 * n for n in range(1, 400)])
    run = Run(blobs(128), [shaky, Sim()]).to_end()
    assert everything_once(run)
    assert shaky.sent < 0.5 * run.sources[1].sent


def test_the_last_blob_of_a_slow_source_is_brought_by_a_fast_one_from_the_byte_reached() -> None:
    slow = Sim(rate=0.25 * MIB)
    run = Run(blobs(5, 4 * MIB), [slow, Sim(rate=40 * MIB)]).to_end()
    assert everything_once(run)
    assert run.seconds < 6.0
    assert 0 < run.scheduler.doubled_bytes <= 16 * MIB
    assert run.sent <= 20 * MIB + run.scheduler.doubled_bytes


def test_a_link_that_rewards_streams_gets_more_of_them_and_one_that_does_not_stays_as_it_is() -> None:
    long_line = Run(blobs(512), [Sim(rate=100 * MIB, stream_rate=2 * MIB)], streams=16).to_end()
    assert long_line.sources[0].most_streams >= 12
    full_line = Run(blobs(512), [Sim(rate=8 * MIB, latency=0.01)], streams=16).to_end()
    assert full_line.sources[0].most_streams <= 5


def test_cuts_halve_the_streams() -> None:
    window = Window(16)
    for goodput in (10.0, 20.0, 30.0, 40.0):
        window.measured(goodput)
    assert window.size == 8
    window.cut()
    assert window.size == 4
    for _ in range(5):
        window.cut()
    assert window.size == 1


def test_a_trial_that_brings_nothing_is_taken_back_and_made_more_seldom() -> None:
    window = Window(16)
    sizes = []
    for _ in range(200):
        window.measured(10.0)
        sizes.append(window.size)
    assert set(sizes) == {4, 5}
    assert sizes.count(5) < 10


def test_a_small_bound_is_kept_from_the_start() -> None:
    assert Window(1).size == 1


kinds = st.builds(
    Sim,
    rate=st.floats(0.3 * MIB, 50 * MIB),
    latency=st.floats(0.0, 1.0),
    lacks=st.sampled_from([lambda _digest: False, lambda digest: digest.sha256[-1] % 2 == 0]),
    lies=st.sampled_from([lambda _digest: False, lambda digest: digest.sha256[-1] % 5 == 1, lambda _digest: True]),
    cut_at=st.lists(st.floats(0.0, 20.0), max_size=10),
    silent_from=st.sampled_from([float("inf"), 0.5, 3.0]),
    dead=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(kinds, max_size=3), st.integers(1, 8), st.integers(0, 3), st.integers(1, 40), st.booleans())
def test_with_one_honest_source_every_fetch_ends_whatever_the_others_do(
    others: list[Sim], streams: int, place: int, count: int, asks: bool
) -> None:
    sources = [*others[:place], Sim(rate=5 * MIB), *others[place:]]
    run = Run(blobs(count), sources, streams=streams)
    if asks:
        run.ask_all_but_the_first()
    run.to_end()
    assert everything_once(run)
    assert run.most_streams <= streams
    wasted = run.scheduler.bad_copies * MIB + run.scheduler.doubled_bytes
    dropped = (streams + run.scheduler.cuts) * MIB
    assert run.sent <= count * MIB + wasted + dropped
