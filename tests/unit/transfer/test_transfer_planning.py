"""Plans and batches: pure arithmetic over chunks."""

from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from deltaic.transfer.batches import group
from deltaic.transfer.planning import Plan, plan_update
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest

Make = Callable[..., Path]


def unique_bytes(manifest: Manifest) -> int:
    return sum(digest.size for digest in manifest.unique)


def test_with_nothing_held_everything_is_fetched(tiny_gguf: Make) -> None:
    want = Manifest.build(tiny_gguf())
    assert plan_update(want, []) == Plan((), 0, unique_bytes(want), len(want.unique))


def test_what_is_held_whole_costs_nothing(tiny_gguf: Make) -> None:
    want = Manifest.build(tiny_gguf())
    assert plan_update(want, [want]) == Plan((want.revision,), want.size, 0, 0)


def test_a_changed_tensor_is_all_that_is_fetched(tiny_gguf: Make) -> None:
    held = Manifest.build(tiny_gguf())
    want = Manifest.build(tiny_gguf(changed=["blk.0.attn_q.weight"]))
    plan = plan_update(want, [held])
    assert plan.reuse_from == (held.revision,)
    assert plan.fetch_chunks == 1
    assert plan.fetch_bytes == 16 * 2 * 20
    assert plan.reuse_bytes + plan.fetch_bytes == want.size


def test_the_most_useful_revision_comes_first_and_useless_ones_are_left_out(tiny_gguf: Make) -> None:
    want = Manifest.build(tiny_gguf(chat_template="{{ new }}"))
    near = Manifest.build(tiny_gguf())
    far = Manifest.build(tiny_gguf(seed=9, chat_template="{{ new }}"))
    nearer_copy = Manifest.build(tiny_gguf(chat_template="{{ another }}"))
    plan = plan_update(want, [far, near, nearer_copy])
    assert plan.reuse_from[0] in {near.revision, nearer_copy.revision}
    assert plan.reuse_from[1:] == (far.revision,), "it alone has the new template"
    assert plan.fetch_bytes == 0


sizes = st.lists(st.integers(0, 5_000), max_size=60)


@given(sizes, st.integers(1, 9_000), st.integers(1, 10))
def test_grouping_keeps_order_and_bounds(given_sizes: list[int], max_bytes: int, max_blobs: int) -> None:
    digests = [Digest(bytes([index]) * 32, size) for index, size in enumerate(given_sizes)]
    batches = group(digests, max_bytes=max_bytes, max_blobs=max_blobs)
    assert [digest for batch in batches for digest in batch] == digests
    for batch in batches:
        assert 0 < len(batch) <= max_blobs
        assert len(batch) == 1 or sum(digest.size for digest in batch) <= max_bytes
