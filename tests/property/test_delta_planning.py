"""Plans with deltas: whatever is held and known, never dearer than chunks, inside the limits, the same every time."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from deltaic.store.delta_records import DeltaRecord, Pair
from deltaic.transfer.planning import MAX_CHAIN, Limits, Method, price_update
from deltaic.weights.digest import Digest
from deltaic.weights.layout import SegmentKind
from deltaic.weights.manifest import Manifest, serialise
from deltaic.weights.model_file import ModelFile, Segment


def manifest_of(name: str, chunks: list[int]) -> Manifest:
    """A revision of one header; chunk 7 of any revision is chunk 7 of every other."""
    digests = tuple(Digest(bytes([number]) * 32, 1_000 + number) for number in chunks)
    length = sum(digest.size for digest in digests)
    segment = Segment(SegmentKind.HEADER, "header", "", (), 0, length, digests)
    whole = Digest(Digest.of(name.encode()).sha256, length)
    return Manifest.parse(serialise(ModelFile(f"{name}.gguf", whole, "llama", (segment,))))


@dataclass(frozen=True)
class Case:
    want: Manifest
    have: list[Manifest]
    deltas: list[DeltaRecord]
    limits: Limits


@st.composite
def cases(draw) -> Case:
    count = draw(st.integers(2, 6))
    revisions = [
        manifest_of(f"r{number}", draw(st.lists(st.integers(0, 20), min_size=1, max_size=8, unique=True)))
        for number in range(count)
    ]
    pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
    known = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=len(pairs)))
    deltas = [
        DeltaRecord(
            Pair(revisions[a].digest, revisions[b].digest),
            Digest(bytes([100 + a, 100 + b]) * 16, draw(st.integers(1, 4_000))),
            (),
            revisions[b].size,
            draw(st.integers(1, 100)),
        )
        for a, b in known
    ]
    limits = Limits(
        draw(st.sampled_from([0, 10, 10_000])), draw(st.sampled_from([0, 50])), draw(st.sampled_from([0, 100, 10**6]))
    )
    return Case(revisions[0], draw(st.lists(st.sampled_from(revisions[1:]), unique=True)), deltas, limits)


@given(cases())
def test_a_plan_is_never_dearer_than_chunks(case: Case) -> None:
    plan = price_update(case.want, case.have, case.deltas, case.limits)
    whole = price_update(case.want, case.have, [], case.limits)
    assert plan.chunks == whole.chunks
    assert plan.fetch_bytes <= whole.fetch_bytes == whole.chunks.fetch_bytes
    if case.limits.link_bytes_per_second:
        assert plan.seconds <= whole.seconds


@given(cases())
def test_a_plan_leads_from_what_is_held_to_what_is_wanted_inside_the_limits(case: Case) -> None:
    plan = price_update(case.want, case.have, case.deltas, case.limits)
    known = {(each.pair.source, each.pair.target, each.index) for each in case.deltas}
    held = {each.digest for each in case.have}
    assert len(plan.deltas) <= MAX_CHAIN
    here = {*held}
    for step in plan.deltas:
        assert step.source in here, "each step starts from what is there by then"
        assert (step.source, step.target, step.delta) in known
        assert not case.limits.memory_bytes or step.memory_bytes <= case.limits.memory_bytes
        here.add(step.target)
    fetches = any(step.method is Method.CHUNKS for step in plan.steps)
    assert case.want.digest in here or fetches or plan.chunks.fetch_chunks == 0
    assert not (plan.deltas and fetches)


@given(cases(), st.randoms())
def test_the_order_of_what_is_known_changes_nothing(case: Case, random) -> None:
    have, deltas = [*case.have], [*case.deltas]
    random.shuffle(have)
    random.shuffle(deltas)
    again = price_update(case.want, have, deltas, case.limits)
    assert again == price_update(case.want, case.have, case.deltas, case.limits)


@given(cases())
def test_more_deltas_never_make_it_dearer(case: Case) -> None:
    fewer = price_update(case.want, case.have, case.deltas[1:], case.limits)
    more = price_update(case.want, case.have, case.deltas, case.limits)
    if case.limits.link_bytes_per_second:
        assert more.seconds <= fewer.seconds + 1e-9
    else:
        assert more.fetch_bytes <= fewer.fetch_bytes
