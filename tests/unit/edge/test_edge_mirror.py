"""What devices see of the registry: only what they can fetch here."""

import asyncio
from contextlib import aclosing

import pytest

from deltaic.names import ChannelName, ModelName, RevisionName
from deltaic.store.model_files import ModelFiles
from deltaic.transfer.channel_book import ChannelState
from deltaic.v1 import registry_pb2
from deltaic.weights.manifest import Manifest
from edge.errors import EdgeStopping, NotHeldHere
from edge.mirror import Mirror

STABLE, CANARY = ChannelName("m", "stable"), ChannelName("m", "canary")


@pytest.fixture
def files(tmp_path, tiny_gguf) -> ModelFiles:
    """Two complete revisions."""
    files = ModelFiles(tmp_path / "models")
    for seed in (1, 2):
        path = tiny_gguf(seed=seed)
        manifest = Manifest.build(path)
        with files.stage(manifest) as staging:
            for chunk in staging.missing:
                staging.write(chunk, path.read_bytes()[chunk.offset : chunk.offset + chunk.digest.size])
            staging.commit()
    return files


def state_of(channel: ChannelName, manifest: Manifest, etag: str = "1") -> ChannelState:
    revision = registry_pb2.Revision(
        name=f"{channel.of_model}/revisions/{manifest.revision}", manifest=manifest.digest.to_proto()
    )
    return ChannelState.from_proto(registry_pb2.Channel(name=str(channel), revision=revision, etag=etag))


def test_a_channel_is_shown_with_what_is_complete_here(files):
    state = state_of(STABLE, files.revisions()[0])
    mirror = Mirror(files, lambda: {STABLE: state})
    assert mirror.channel(STABLE) == state.message
    assert mirror.channels() == mirror.channels(ModelName("m")) == [state.message]
    assert mirror.channels(ModelName("other")) == []
    with pytest.raises(NotHeldHere, match="channels/canary"):
        mirror.channel(CANARY)


def test_a_revision_is_shown_once_its_name_is_known_and_only_while_its_file_is_here(files):
    old, new = files.revisions()
    mirror = Mirror(files, dict)
    name = state_of(STABLE, old).revision
    with pytest.raises(NotHeldHere):
        mirror.revision(name)
    mirror.learn([state_of(STABLE, old), state_of(STABLE, new)])
    assert mirror.revision(name).name == str(name)
    assert len(mirror.revisions(ModelName("m"))) == 2
    files.remove(name.hex)
    with pytest.raises(NotHeldHere):
        mirror.revision(name)
    assert len(mirror.revisions()) == 1


def test_the_digest_of_another_models_revision_is_not_taken_for_this_one(files):
    mirror = Mirror(files, dict)
    mirror.learn([state_of(STABLE, files.revisions()[0])])
    assert mirror.held(RevisionName("m", files.revisions()[0].revision)) is not None
    assert mirror.held(RevisionName("impostor", files.revisions()[0].revision)) is None


def test_a_channel_means_the_revision_that_it_names_here(files):
    state = state_of(STABLE, files.revisions()[0])
    mirror = Mirror(files, lambda: {STABLE: state})
    assert mirror.held(STABLE) == state.revision
    assert mirror.held(CANARY) is None


async def test_a_watch_gives_the_present_state_then_each_change_and_ends_when_the_edge_stops(files):
    old, new = files.revisions()
    held: dict[ChannelName, ChannelState] = {}
    mirror = Mirror(files, lambda: held)
    seen: list[registry_pb2.Channel] = []

    async def watch() -> None:
        async with aclosing(mirror.watch(frozenset({STABLE}))) as states:
            async for channel in states:
                seen.append(channel)  # noqa: PERF401  # what came before the end is looked at

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    for state in (state_of(STABLE, old), state_of(CANARY, old), state_of(STABLE, new)):
        held[state.channel] = state
        mirror.changed()
        mirror.changed()
        await asyncio.sleep(0.01)
    mirror.close()
    with pytest.raises(EdgeStopping):
        await watching
    assert [channel.revision.name.rpartition(":")[2] for channel in seen] == [old.digest.hex, new.digest.hex]
