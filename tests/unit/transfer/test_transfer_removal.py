"""What a follower removes: never what a channel has turned back to meanwhile."""

from pathlib import Path
from typing import Any

from deltaic.names import ChannelName
from deltaic.rpc.channel import open_channel
from deltaic.store.model_files import ModelFiles
from deltaic.transfer.channel_book import ChannelState
from deltaic.transfer.follow import Follower
from deltaic.v1 import registry_pb2
from deltaic.weights.digest import Digest

STABLE = ChannelName("tiny", "stable")


def state(number: int) -> ChannelState:
    digest = Digest(bytes([number]) * 32, 1_000)
    revision = registry_pb2.Revision(name=f"models/tiny/revisions/{digest}", manifest=digest.to_proto())
    return ChannelState.from_proto(registry_pb2.Channel(name=str(STABLE), revision=revision))


async def test_a_revision_that_is_wanted_again_during_a_removal_stays(tmp_path: Path, monkeypatch: Any) -> None:
    files, removed = ModelFiles(tmp_path / "models"), []

    async def activate(*_: Any) -> None:
        """Nothing of this test is served."""

    channel = open_channel("127.0.0.1:9", node="edge@test")
    follower = Follower(
        [STABLE], channel, files, activate, data_dir=tmp_path, upstream_name="center", keep_previous=False
    )
    book = follower._book
    for number in (1, 2, 3):
        book.aim(state(number))
    book.switched(state(3))

    def remove(revision_hex: str) -> None:
        removed.append(revision_hex)
        book.aim(state(2))

    monkeypatch.setattr(files, "remove", remove)
    await follower._remove_unneeded()
    await channel.close()
    assert removed == [state(1).revision.hex]
