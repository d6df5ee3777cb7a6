"""What the tests of collection ask of a center and its store."""

import os
import time
from pathlib import Path

from center_node import CenterNode

from deltaic.store.model_files import ModelFiles
from deltaic.transfer.fetch import fetch, fetch_manifest
from deltaic.transfer.source import GrpcSource
from deltaic.v1 import content_pb2, registry_pb2
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest

T = 30.0
AT_ONCE = {"upload_hours": 0, "keep_previous": 0}


async def every_byte(node: CenterNode, revision: registry_pb2.Revision, folder: Path) -> bytes:
    """The file of a revision as an edge fetches it, every chunk of it from this center."""
    source = GrpcSource(node.channel, "center")
    manifest, _ = await fetch_manifest(source, Digest.from_proto(revision.manifest))
    with ModelFiles(folder).stage(manifest) as staging:
        await fetch(staging, [source])
        return staging.commit().read_bytes()


def age(node: CenterNode, hours: float) -> None:
    """Make everything in the store look as if it had rested there for so long."""
    then = time.time() - 3600 * hours
    for path in (node.data_dir / "chunks" / "chunks").glob("??/*"):
        os.utime(path, (then, then))


def needed(*manifests: Manifest) -> set[str]:
    return {digest.hex for manifest in manifests for digest in (manifest.digest, *manifest.unique)}


async def revisions_of(node: CenterNode, model: str = "m") -> list[registry_pb2.Revision]:
    request = registry_pb2.ListRevisionsRequest(model=model, page_size=1_000)
    return list((await node.registry.ListRevisions(request, timeout=T)).revisions)


async def assert_whole(node: CenterNode, model: str = "m") -> None:
    """Every blob of every revision in the catalog can be read, and is right."""
    for revision in await revisions_of(node, model):
        source = GrpcSource(node.channel, "center")
        manifest, _ = await fetch_manifest(source, Digest.from_proto(revision.manifest))
        ranges = [content_pb2.ReadRange(digest=digest.to_proto()) for digest in manifest.unique]
        data = b""
        async for frame in node.content.Read(content_pb2.ReadRequest(ranges=ranges), timeout=T):
            data += frame.data
        position = 0
        for digest in manifest.unique:
            assert digest.matches(data[position : position + digest.size]), revision.name
            position += digest.size
