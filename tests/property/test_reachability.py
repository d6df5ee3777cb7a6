"""What a channel, tag, node or recent publish reaches is never collected, and what is kept is kept for a reason."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from center.reach import MOST_NAMED, Keeper, KeeperKind, KeepPolicy, NodeUse, Roots, keepers_of
from deltaic.names import ChannelName, RevisionName, TagName

NOW = 1_000_000
REVISIONS = [RevisionName("m", f"sha256:{number:064x}") for number in range(12)]
TIMES = st.integers(0, NOW + 1_000)
NAMES = st.sampled_from(REVISIONS)


@st.composite
def roots(draw: st.DrawFn) -> Roots:
    known = draw(st.lists(NAMES, unique=True, max_size=len(REVISIONS)))
    channels = st.dictionaries(st.sampled_from("abc"), st.lists(NAMES, unique=True, max_size=8), max_size=3)
    tags = st.dictionaries(st.sampled_from("xyz"), NAMES, max_size=3)
    uses = st.lists(st.tuples(st.sampled_from("12345"), TIMES, st.frozensets(NAMES, max_size=3)), max_size=6)
    return Roots(
        revisions={name: draw(TIMES) for name in known},
        channels={ChannelName("m", channel): named for channel, named in draw(channels).items()},
        tags={TagName("m", tag): name for tag, name in draw(tags).items()},
        uses=[NodeUse(*each) for each in draw(uses)],
    )


POLICIES = st.builds(KeepPolicy, previous=st.integers(0, 5), lease_us=st.integers(0, NOW), grace_us=st.integers(0, NOW))


def reached(facts: Roots, policy: KeepPolicy) -> set[RevisionName]:
    """The same in other words, one revision at a time."""

    def is_reached(name: RevisionName) -> bool:
        return (
            any(name in named and named.index(name) <= policy.previous for named in facts.channels.values())
            or name in facts.tags.values()
            or facts.revisions[name] > NOW - policy.grace_us
            or any(name in use.revisions and use.time_us > NOW - policy.lease_us for use in facts.uses)
        )

    return {name for name in facts.revisions if is_reached(name)}


@settings(max_examples=500)
@given(roots(), POLICIES)
def test_exactly_what_is_reached_is_kept(facts: Roots, policy: KeepPolicy) -> None:
    kept = keepers_of(facts, policy, NOW)
    assert set(kept) == set(facts.revisions)
    assert {name for name, keepers in kept.items() if keepers.count} == reached(facts, policy)


@given(roots(), POLICIES)
def test_every_keeper_is_one_that_there_is(facts: Roots, policy: KeepPolicy) -> None:
    for name, keepers in keepers_of(facts, policy, NOW).items():
        assert keepers.count == len(keepers.named), "so few are all named"
        for keeper in keepers.named:
            match keeper.kind:
                case KeeperKind.CHANNEL:
                    assert facts.channels[ChannelName.parse(keeper.name)][0] == name
                case KeeperKind.PREVIOUS:
                    assert name in facts.channels[ChannelName.parse(keeper.name)][1 : 1 + policy.previous]
                case KeeperKind.TAG:
                    assert facts.tags[TagName.parse(keeper.name)] == name
                case KeeperKind.NODE:
                    assert any(use.node == keeper.name and name in use.revisions for use in facts.uses)
                case KeeperKind.PUBLISH:
                    assert NOW - facts.revisions[name] < policy.grace_us


@given(roots(), POLICIES, NAMES)
def test_one_more_tag_never_makes_less_kept(facts: Roots, policy: KeepPolicy, name: RevisionName) -> None:
    more = replace(facts, tags={**facts.tags, TagName("m", "new"): name})
    before = {each for each, keepers in keepers_of(facts, policy, NOW).items() if keepers.count}
    after = {each for each, keepers in keepers_of(more, policy, NOW).items() if keepers.count}
    assert after == before | ({name} & set(facts.revisions))


@given(roots(), POLICIES)
def test_a_longer_memory_never_keeps_less(facts: Roots, policy: KeepPolicy) -> None:
    longer = KeepPolicy(policy.previous + 1, policy.lease_us + 1, policy.grace_us + 1)
    short, long = (
        {each for each, keepers in keepers_of(facts, each_policy, NOW).items() if keepers.count}
        for each_policy in (policy, longer)
    )
    assert short <= long


def test_a_large_fleet_is_counted_and_only_some_of_it_named() -> None:
    (name,) = REVISIONS[:1]
    uses = (NodeUse(f"edge-{number}", NOW, frozenset({name})) for number in range(10_000))
    kept = keepers_of(Roots({name: 0}, {}, {}, uses), KeepPolicy(0, 1, 1), NOW)[name]
    assert kept.count == 10_000
    assert len(kept.named) == MOST_NAMED
    assert kept.named[0] == Keeper(KeeperKind.NODE, "edge-0")
