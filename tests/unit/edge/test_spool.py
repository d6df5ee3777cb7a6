"""The spool: gapless through kills, torn and rotten bytes, a full budget and a failing disk."""

import os
from pathlib import Path

import pytest

from deltaic.v1 import audit_pb2
from edge.spool.segment import HEADER_BYTES, segments_in
from edge.spool.spool import BATCH_ENTRIES, ENTRIES_LOST, SPOOL_FULL, Draft, Spool

BUDGET = 1 << 20


def draft(text: str = "r", **details: str) -> Draft:
    return Draft("EDGE_LOADED", text, details, 1_700_000_000_000_000)


def everything(spool: Spool) -> list[audit_pb2.SpooledEntry]:
    """Take all, as a center that answers would."""
    taken: list[audit_pb2.SpooledEntry] = []
    while (batch := spool.read()) is not None:
        assert batch.oldest == batch.entries[0].sequence
        taken += batch.entries
        spool.forget(batch.entries[-1].sequence)
    return taken


def sequences(entries: list[audit_pb2.SpooledEntry]) -> list[int]:
    return [each.sequence for each in entries]


def test_what_was_appended_is_there_after_a_restart_in_order(tmp_path: Path) -> None:
    first = Spool(tmp_path, BUDGET)
    first.append([draft("a"), draft("b")])
    first.append([draft("c")])  # not closed: a killed process closes nothing
    again = Spool(tmp_path, BUDGET)
    assert again.name == first.name
    again.append([draft("d")])
    found = everything(again)
    assert [each.resource for each in found] == list("abcd")
    assert sequences(found) == [1, 2, 3, 4]


def test_numbers_go_on_where_they_were_when_all_was_delivered(tmp_path: Path) -> None:
    spool = Spool(tmp_path, BUDGET)
    spool.append([draft(), draft()])
    assert len(everything(spool)) == 2
    again = Spool(tmp_path, BUDGET)
    assert again.read() is None
    again.append([draft()])
    assert sequences(everything(again)) == [3]


def test_a_process_killed_at_any_byte_of_a_write_loses_only_that_entry(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "whole", BUDGET)
    spool.append([draft("a")])
    (path,) = segments_in(tmp_path / "whole")
    kept = path.stat().st_size
    spool.append([draft("b", why="because")])
    data = path.read_bytes()
    for cut in range(HEADER_BYTES, len(data)):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / path.name).write_bytes(data[:cut])
        torn = Spool(folder, BUDGET)
        torn.append([draft("c")])
        whole = ["a"] if cut >= kept else []
        found = everything(torn)
        assert [each.resource for each in found] == [*whole, "c"]
        assert sequences(found) == list(range(1, len(found) + 1))


def test_a_segment_whose_header_is_torn_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / f"{1:020d}.log").write_bytes(b"de")
    spool = Spool(tmp_path, BUDGET)
    spool.append([draft("a")])
    assert sequences(everything(Spool(tmp_path, BUDGET))) == [1]


def test_a_rotten_entry_is_passed_over_and_its_number_shows_that_it_is_missing(tmp_path: Path) -> None:
    spool = Spool(tmp_path, BUDGET)
    for text in "abc":
        spool.append([draft(text * 20)])
    (path,) = segments_in(tmp_path)
    data = bytearray(path.read_bytes())
    data[data.index(b"bbbb")] ^= 1
    path.write_bytes(data)
    again = Spool(tmp_path, BUDGET)
    first = again.read()
    assert first is not None
    assert sequences(list(first.entries)) == [1], "a batch ends before a gap"
    again.forget(1)
    then = again.read()
    assert then is not None
    assert (sequences(list(then.entries)), then.oldest) == ([3], 3)


def test_a_lost_note_of_what_was_delivered_costs_a_second_delivery_and_no_number_twice(tmp_path: Path) -> None:
    spool = Spool(tmp_path, BUDGET)
    spool.append([draft("a"), draft("b")])
    everything(spool)
    (tmp_path / "delivered").unlink()
    again = Spool(tmp_path, BUDGET)
    again.append([draft("c")])
    assert sequences(everything(again)) == [1, 2, 3]


def test_a_full_spool_keeps_what_came_first_and_says_how_many_are_missing(tmp_path: Path) -> None:
    spool = Spool(tmp_path, BUDGET)
    text = "x" * 400
    for _ in range(4_000):
        spool.append([draft(text)])
    assert spool.bytes <= BUDGET + 200
    assert sum(path.stat().st_size for path in tmp_path.glob("*.log")) <= BUDGET + 200
    lost = spool.lost
    assert lost > 1_000
    kept = everything(spool)
    assert sequences(kept) == list(range(1, len(kept) + 1))
    assert len(kept) - 1 + lost == 4_000
    assert kept[-1].action == SPOOL_FULL
    spool.append([draft("after")])
    said, after = everything(spool)
    assert (said.action, said.details["count"]) == (ENTRIES_LOST, str(lost))
    assert (after.resource, after.sequence) == ("after", len(kept) + 2)


def test_delivered_segments_go(tmp_path: Path) -> None:
    spool = Spool(tmp_path, BUDGET)
    for _ in range(600):
        spool.append([draft("x" * 400)])
    assert len(segments_in(tmp_path)) > 3
    everything(spool)
    assert len(segments_in(tmp_path)) == 1
    assert spool.entries == 0


def test_a_disk_that_fails_costs_the_entries_and_neither_a_number_nor_an_exception(tmp_path: Path) -> None:
    broken = False

    def fsync(descriptor: int) -> None:
        if broken:
            raise OSError(5, "Input/output error")
        os.fdatasync(descriptor)

    spool = Spool(tmp_path, BUDGET, fsync=fsync)
    spool.append([draft("a")])
    broken = True
    spool.append([draft("b")])
    spool.append([draft("c")])
    assert spool.lost == 2
    broken = False
    spool.append([draft("d")])
    found = everything(spool)
    assert [(each.sequence, each.action, each.resource) for each in found] == [
        (1, "EDGE_LOADED", "a"),
        (2, ENTRIES_LOST, "spool"),
        (3, "EDGE_LOADED", "d"),
    ]
    assert sequences(everything(Spool(tmp_path, BUDGET))) == []


def test_a_batch_is_bounded(tmp_path: Path) -> None:
    spool = Spool(tmp_path, BUDGET)
    spool.append([draft() for _ in range(BATCH_ENTRIES + 1)])
    batch = spool.read()
    assert batch is not None
    assert len(batch.entries) == BATCH_ENTRIES


@pytest.mark.parametrize("content", [b"", b"no number", b"-3"])
def test_a_note_that_cannot_be_read_is_as_good_as_absent(tmp_path: Path, content: bytes) -> None:
    spool = Spool(tmp_path, BUDGET)
    spool.append([draft()])
    (tmp_path / "delivered").write_bytes(content)
    assert sequences(everything(Spool(tmp_path, BUDGET))) == [1]
