"""Publishing over a real connection: what is let in, and that nothing else leaves a trace."""

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from center_node import CenterNode, flip_byte, refusal, running_center

from center.errors import TrialLoadFailed
from deltaic.errors import Code
from deltaic.names import RevisionName
from deltaic.v1 import audit_pb2, content_pb2, registry_pb2
from deltaic.weights.chunks import MAX_CHUNK_BYTES
from deltaic.weights.digest import Digest
from deltaic.weights.layout import SegmentKind
from deltaic.weights.manifest import Manifest, serialise
from deltaic.weights.model_file import ModelFile, Segment

T = 30.0


async def write(node: CenterNode, data: bytes) -> Digest:
    """Store one blob as a hostile client could: without vetting anything."""
    digest = Digest.of(data)
    starts = range(0, max(len(data), 1), 1 << 20)
    frames = [
        content_pb2.WriteRequest(
            digest=digest.to_proto() if start == 0 else None,
            data=data[start : start + (1 << 20)],
            end_of_blob=start + (1 << 20) >= len(data),
        )
        for start in starts
    ]
    await node.content.Write(iter(frames), timeout=T)
    return digest


async def offer(node: CenterNode, data: bytes, file: ModelFile | None = None) -> Digest:
    """Upload any bytes as the file of a well-formed manifest."""
    segments = file.segments if file else (whole(data),)
    for segment in segments:
        position = segment.offset
        for chunk in segment.chunks:
            await write(node, data[position : position + chunk.size])
            position += chunk.size
    described = file or ModelFile("model.gguf", Digest.of(data), "llama", segments)
    return await write(node, serialise(described))


def whole(data: bytes) -> Segment:
    assert len(data) <= MAX_CHUNK_BYTES
    return Segment(SegmentKind.HEADER, "GGUF", "", (), 0, len(data), (Digest.of(data),))


async def assert_nothing_was_let_in(node: CenterNode) -> None:
    listed = await node.audit.ListEntries(audit_pb2.ListEntriesRequest(), timeout=T)
    assert not listed.entries
    refused = await refusal(node.registry.ListRevisions(registry_pb2.ListRevisionsRequest(model="m"), timeout=T))
    assert refused.reason == "UNKNOWN_MODEL"
    assert not [path for path in (node.data_dir / "models").iterdir() if path.suffix != ".lock"]


async def test_missing_blobs_are_counted(tmp_path: Path, tiny_gguf: Callable) -> None:
    async with running_center(tmp_path) as node:
        manifest = Manifest.build(tiny_gguf())
        refused = await refusal(node.publish(manifest.digest))
        assert (refused.code, refused.reason) == (Code.FAILED_PRECONDITION, "BLOBS_MISSING")
        await write(node, manifest.data)
        refused = await refusal(node.publish(manifest.digest))
        assert (refused.code, refused.reason) == (Code.FAILED_PRECONDITION, "BLOBS_MISSING")
        assert refused.metadata["missing"] == str(len(manifest.unique))
        await assert_nothing_was_let_in(node)


async def test_the_same_request_gives_the_same_answer_and_one_trial(tmp_path: Path, tiny_gguf: Callable) -> None:
    trials: list[RevisionName] = []

    async def counting(name: RevisionName, _path: Path) -> None:
        trials.append(name)

    async with running_center(tmp_path, trial_load=counting) as node:
        digest = (await node.upload(tiny_gguf())).digest
        request = str(uuid.uuid4())
        answers = await asyncio.gather(*(node.publish(digest, request_id=request) for _ in range(5)))
        assert all(answer == answers[0] for answer in answers)
        assert await node.publish(digest, request_id=uuid.UUID(request).hex) == answers[0]
        assert await node.publish(digest) == answers[0]
        assert len(trials) == 1


async def test_a_request_id_is_not_used_for_two_manifests(tmp_path: Path, tiny_gguf: Callable) -> None:
    async with running_center(tmp_path) as node:
        one, two = [(await node.upload(tiny_gguf(general_name=name))).digest for name in ("1", "2")]
        request = str(uuid.uuid4())
        await node.publish(one, request_id=request)
        refused = await refusal(node.publish(two, request_id=request))
        assert (refused.code, refused.reason) == (Code.ALREADY_EXISTS, "REQUEST_ID_REUSED")


@pytest.mark.parametrize(("request_id", "description"), [("not-a-uuid", ""), (str(uuid.uuid4()), "d" * 1_001)])
async def test_a_malformed_request_is_refused(tmp_path: Path, request_id: str, description: str) -> None:
    async with running_center(tmp_path) as node:
        request = registry_pb2.PublishRevisionRequest(
            request_id=request_id, model="m", manifest=Digest.of(b"").to_proto(), description=description
        )
        refused = await refusal(node.registry.PublishRevision(request, timeout=T))
        assert (refused.code, refused.reason) == (Code.INVALID_ARGUMENT, "BAD_REQUEST")


async def test_bytes_that_are_no_manifest_are_refused(tmp_path: Path) -> None:
    async with running_center(tmp_path) as node:
        refused = await refusal(node.publish(await write(node, b"this is no manifest")))
        assert (refused.code, refused.reason) == (Code.INVALID_ARGUMENT, "BAD_MANIFEST")


async def test_a_file_that_is_not_gguf_is_refused(tmp_path: Path) -> None:
    async with running_center(tmp_path) as node:
        refused = await refusal(node.publish(await offer(node, b"MZ" + b"not a model" * 100)))
        assert (refused.code, refused.reason) == (Code.INVALID_ARGUMENT, "NOT_GGUF")
        await assert_nothing_was_let_in(node)


async def test_a_truncated_file_is_refused(tmp_path: Path, tiny_gguf: Callable) -> None:
    async with running_center(tmp_path) as node:
        refused = await refusal(node.publish(await offer(node, tiny_gguf().read_bytes()[:-100])))
        assert refused.code is Code.INVALID_ARGUMENT
        await assert_nothing_was_let_in(node)


async def test_a_manifest_that_describes_the_file_wrongly_is_refused(tmp_path: Path, tiny_gguf: Callable) -> None:
    data = tiny_gguf().read_bytes()
    async with running_center(tmp_path) as node:
        refused = await refusal(node.publish(await offer(node, data)))
        assert (refused.code, refused.reason) == (Code.INVALID_ARGUMENT, "LAYOUT_MISMATCH")
        built = Manifest.build(tiny_gguf())
        other = replace(built.file, architecture="gpt2")
        refused = await refusal(node.publish(await offer(node, data, other)))
        assert (refused.code, refused.reason) == (Code.INVALID_ARGUMENT, "LAYOUT_MISMATCH")
        await assert_nothing_was_let_in(node)


async def test_a_manifest_that_lies_about_the_whole_file_is_refused(tmp_path: Path, tiny_gguf: Callable) -> None:
    path = tiny_gguf()
    data = path.read_bytes()
    async with running_center(tmp_path) as node:
        lying = replace(Manifest.build(path).file, digest=replace(Digest.of(data), sha256=bytes(32)))
        refused = await refusal(node.publish(await offer(node, data, lying)))
        assert (refused.code, refused.reason) == (Code.INVALID_ARGUMENT, "BAD_MANIFEST")
        await assert_nothing_was_let_in(node)


async def test_a_flipped_byte_in_a_stored_chunk_is_data_loss_and_sending_it_again_heals(
    tmp_path: Path, tiny_gguf: Callable
) -> None:
    path = tiny_gguf(ballast=1 << 20)
    async with running_center(tmp_path) as node:
        manifest = await node.upload(path)
        flip_byte(node.stored(manifest.chunks[-1].digest), 7)
        refused = await refusal(node.publish(manifest.digest))
        assert refused.code is Code.DATA_LOSS
        await assert_nothing_was_let_in(node)
        await node.upload(path)
        assert (await node.publish(manifest.digest)).name.endswith(manifest.revision)


async def test_a_flipped_byte_in_the_stored_manifest_is_data_loss(tmp_path: Path, tiny_gguf: Callable) -> None:
    async with running_center(tmp_path) as node:
        manifest = await node.upload(tiny_gguf())
        flip_byte(node.stored(manifest.digest), 7)
        assert (await refusal(node.publish(manifest.digest))).code is Code.DATA_LOSS


async def test_a_file_that_the_trial_refuses_never_becomes_a_revision(tmp_path: Path, tiny_gguf: Callable) -> None:
    async def refusing(_name: RevisionName, _path: Path) -> None:
        raise TrialLoadFailed("no")

    async with running_center(tmp_path, trial_load=refusing) as node:
        digest = (await node.upload(tiny_gguf())).digest
        for _ in range(2):
            refused = await refusal(node.publish(digest))
            assert (refused.code, refused.reason) == (Code.INVALID_ARGUMENT, "TRIAL_LOAD_FAILED")
        await assert_nothing_was_let_in(node)


async def test_a_file_that_the_engine_cannot_load_is_refused_with_its_reason(
    tmp_path: Path, tiny_gguf: Callable
) -> None:
    async with running_center(tmp_path, trial_load=None) as node:
        refused = await refusal(node.publish_file(tiny_gguf()))
        assert (refused.code, refused.reason) == (Code.INVALID_ARGUMENT, "TRIAL_LOAD_FAILED")
        assert "does not load" in refused.message
        assert "\n" not in refused.message
        await assert_nothing_was_let_in(node)


async def test_the_cache_of_whole_files_keeps_to_its_bytes(tmp_path: Path, tiny_gguf: Callable) -> None:
    paths = [tiny_gguf(general_name=name, ballast=100_000) for name in ("1", "2", "3")]
    async with running_center(tmp_path, cache_bytes=2 * paths[0].stat().st_size + 1_000) as node:
        revisions = [await node.publish_file(path) for path in paths]
        kept = {path.stem for path in (tmp_path / "models").glob("*.gguf")}
        assert kept == {RevisionName.parse(revision.name).hex for revision in revisions[1:]}
    async with running_center(tmp_path, cache_bytes=0) as node:
        await node.publish_file(tiny_gguf(general_name="4"))
        assert not list((tmp_path / "models").glob("*.gguf"))
