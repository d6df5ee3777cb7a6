"""What a node remembers of its channels: survives a restart, forgets nothing that has files, trusts nothing torn."""

from pathlib import Path

import pytest
import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from deltaic.names import ChannelName
from deltaic.transfer.channel_book import ChannelBook, ChannelState
from deltaic.transfer.errors import BadChannel
from deltaic.v1 import registry_pb2
from deltaic.weights.digest import Digest

STABLE = ChannelName("tiny", "stable")
CANARY = ChannelName("tiny", "canary")


def state(number: int, channel: ChannelName = STABLE) -> ChannelState:
    digest = Digest(bytes([number]) * 32, 1_000 + number)
    revision = registry_pb2.Revision(
        name=f"models/tiny/revisions/{digest}",
        manifest=digest.to_proto(),
        file_bytes=2**60 + number,
        create_time=Timestamp(seconds=1_700_000_000, nanos=5),
        description="what the publisher said",
    )
    return ChannelState.from_proto(registry_pb2.Channel(name=str(channel), revision=revision, etag=f"e{number}"))


def hexes(*numbers: int) -> list[str]:
    return [bytes([number]).hex() * 32 for number in numbers]


def reread(book: ChannelBook, path: Path, *channels: ChannelName) -> ChannelBook:
    book.save(book.serialise())
    again = ChannelBook(path, channels or (STABLE,))
    again.load()
    return again


def test_what_was_said_survives_a_restart_to_the_letter(tmp_path: Path) -> None:
    path = tmp_path / "node" / "channels.json"
    book = ChannelBook(path, [STABLE])
    book.aim(state(1))
    book.switched(state(1))
    book.aim(state(2))
    again = reread(book, path)
    assert again.records == book.records
    assert again.records[STABLE].serving == state(1)
    assert again.records[STABLE].target == state(2)


def test_a_node_that_never_heard_of_its_channel_has_an_empty_record(tmp_path: Path) -> None:
    book = ChannelBook(tmp_path / "channels.json", [STABLE])
    book.load()
    assert book.records[STABLE].states() == []


def test_the_way_back_can_be_given_up_but_not_what_serves(tmp_path: Path) -> None:
    book = ChannelBook(tmp_path / "channels.json", [STABLE])
    for number in (1, 2):
        book.aim(state(number))
        book.switched(state(number))
    book.give_up_previous([state(1).revision])
    assert book.unneeded() == [], "a restart fell back to it: nothing newer would start"
    book.give_up_previous([state(2).revision])
    assert book.unneeded() == hexes(1)


def test_what_served_comes_before_what_was_only_wanted(tmp_path: Path) -> None:
    book = ChannelBook(tmp_path / "channels.json", [STABLE])
    for number in (1, 2):
        book.aim(state(number))
        book.switched(state(number))
    book.aim(state(3))
    assert book.records[STABLE].proven() == [state(2), state(1), state(3)]


def test_only_what_serves_what_is_wanted_and_what_served_before_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "channels.json"
    book = ChannelBook(path, [STABLE])
    for number in (1, 2, 3):
        book.aim(state(number))
        book.switched(state(number))
    book.aim(state(4))
    book.aim(state(5))
    assert book.unneeded() == hexes(1, 4)
    again = reread(book, path)
    assert again.unneeded() == hexes(1, 4), "a node killed before it removed them still will"
    again.forget(hexes(1)[0])
    assert again.unneeded() == hexes(4)


def test_the_previous_revision_can_be_given_up_at_once(tmp_path: Path) -> None:
    book = ChannelBook(tmp_path / "channels.json", [STABLE], keep_previous=False)
    for number in (1, 2):
        book.aim(state(number))
        book.switched(state(number))
    assert book.unneeded() == hexes(1)


def test_a_way_back_keeps_what_it_came_from(tmp_path: Path) -> None:
    book = ChannelBook(tmp_path / "channels.json", [STABLE])
    for number in (1, 2, 1):
        book.aim(state(number))
        book.switched(state(number))
    assert book.records[STABLE].serving == state(1)
    assert book.records[STABLE].previous == state(2)
    assert book.unneeded() == []


def test_a_revision_that_another_channel_names_is_needed(tmp_path: Path) -> None:
    book = ChannelBook(tmp_path / "channels.json", [STABLE, CANARY], keep_previous=False)
    book.aim(state(1, CANARY))
    book.switched(state(1, CANARY))
    for number in (1, 2):
        book.aim(state(number))
        book.switched(state(number))
    assert book.unneeded() == []


def test_files_of_a_channel_that_is_no_longer_followed_are_not_needed(tmp_path: Path) -> None:
    path = tmp_path / "channels.json"
    book = ChannelBook(path, [STABLE, CANARY])
    book.aim(state(1))
    book.aim(state(2, CANARY))
    assert reread(book, path, STABLE).unneeded() == hexes(2)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"format": 2, "channels": [], "known": []}',
        b'{"format": 1, "channels": [{"target": {"name": "nonsense"}}], "known": []}',
        b'{"format": 1, "channels": [{"target": {"unknown_field": 1}}], "known": []}',
        b'{"format": 1, "channels": [7], "known": []}',
        b'{"format": 1, "channels": 7, "known": []}',
        b"\xff\xfe",
    ],
)
def test_a_file_that_makes_no_sense_is_said_and_then_as_good_as_absent(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "channels.json"
    path.write_bytes(content)
    book = ChannelBook(path, [STABLE])
    with structlog.testing.capture_logs() as logs:
        book.load()
    assert [log["event"] for log in logs] == ["channels.unreadable"]
    assert book.records[STABLE].states() == []


def test_a_channel_whose_manifest_is_not_its_revision_is_refused() -> None:
    message = state(1).message
    bent = registry_pb2.Channel()
    bent.CopyFrom(message)
    bent.revision.manifest.CopyFrom(Digest(b"x" * 32, 5).to_proto())
    with pytest.raises(BadChannel, match="do not belong together"):
        ChannelState.from_proto(bent)
