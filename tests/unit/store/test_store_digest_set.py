"""A set of digests on the disk: exact, bounded in memory, gone when closed."""

import hashlib
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltaic.store import digest_set
from deltaic.store.digest_set import DigestSet
from deltaic.store.errors import DiskFailed, DiskFull

HASHES = st.binary(min_size=32, max_size=32)


def numbered(*numbers: int) -> list[bytes]:
    return [hashlib.sha256(number.to_bytes(8, "big")).digest() for number in numbers]


@settings(max_examples=50)
@given(st.lists(st.lists(HASHES, max_size=20), max_size=5), st.lists(HASHES, max_size=20))
def test_it_is_a_set(tmp_path_factory: pytest.TempPathFactory, added: list[list[bytes]], others: list[bytes]) -> None:
    with DigestSet(tmp_path_factory.mktemp("set")) as held:
        for hashes in added:
            held.add(hashes)
        known = {each for hashes in added for each in hashes}
        assert len(held) == len(known)
        assert held.absent([*known, *others]) == set(others) - known


def test_its_file_goes_with_it_and_what_a_crash_left_is_no_part_of_the_next(tmp_path: Path) -> None:
    crashed = DigestSet(tmp_path)
    crashed.add(numbered(1))
    with DigestSet(tmp_path) as held:
        assert held.absent(numbered(1)) == set(numbered(1))
        assert list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []
    crashed.close()


def test_what_is_added_after_its_end_is_let_go(tmp_path: Path) -> None:
    held = DigestSet(tmp_path)
    held.close()
    held.add(numbered(1))
    held.close()


def test_a_hundred_thousand_need_no_more_memory_than_was_allowed(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        with DigestSet(tmp_path, cache_bytes=1 << 20) as held:
            for start in range(0, 100_000, 1_000):
                held.add(numbered(*range(start, start + 1_000)))
            assert tracemalloc.get_traced_memory()[1] < 2 << 20
            assert len(held) == 100_000
            assert held.absent(numbered(0, 50_000, 99_999, 100_000)) == set(numbered(100_000))
            size = next(tmp_path.iterdir()).stat().st_size
            assert size > 2 << 20, "what is beyond the cache rests on the disk"
    finally:
        tracemalloc.stop()


def test_a_folder_that_takes_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DiskFailed, match="cannot write in"):
        DigestSet(tmp_path / "absent")


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DigestSet(tmp_path) as held:
        held._database.execute("PRAGMA max_page_count=2")
        with pytest.raises(DiskFull, match="no room in"):
            held.add(numbered(*range(10_000)))
    assert digest_set._FILE not in {path.name for path in tmp_path.iterdir()}
