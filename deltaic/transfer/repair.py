"""Repairing a damaged model file from another node: its bad chunks are fetched, everything else stays as it is."""

import json
from pathlib import Path

import grpc
from google.protobuf.json_format import ParseDict, ParseError

from deltaic.errors import DeltaicError, NotFound
from deltaic.rpc.status import from_rpc_error
from deltaic.store.checking import Checked
from deltaic.store.model_files import ModelFiles
from deltaic.store.places import RevisionPaths
from deltaic.transfer.channel_book import ChannelState
from deltaic.transfer.errors import SourceLacks
from deltaic.transfer.fetch import FetchStats, Progress, fetch, fetch_manifest
from deltaic.transfer.source import GrpcSource
from deltaic.transfer.threads import in_thread
from deltaic.v1 import content_pb2, content_pb2_grpc, registry_pb2
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest

_CALL_SECONDS = 15.0
_DIGESTS_A_QUESTION = 10_000


class Repairer:
    """Repairs files of a folder that no node works in, from the node behind `channel`, which `name` names."""

    def __init__(self, folder: Path, channel: grpc.aio.Channel, name: str) -> None:
        self._folder = folder
        self._source = GrpcSource(channel, name)
        self._stub = content_pb2_grpc.ContentServiceStub(channel)
        self._name = name

    async def manifest_of(self, checked: Checked, known: dict[str, Digest]) -> Manifest:
        """The manifest of a revision: the one that is here, or fetched where that is damaged.

        `known` says how large manifests are, which a name alone does not. Raises NotFound, SourceLacks, LineLost.
        """
        if checked.manifest is not None:
            return checked.manifest
        candidates = [digest for digest in (known.get(checked.hex), self._as_on_disk(checked.hex)) if digest]
        for digest in dict.fromkeys(candidates):
            if not await self._lacking([digest]):
                manifest, _ = await fetch_manifest(self._source, digest)
                return manifest
        raise NotFound(
            f"{self._name} does not hold the manifest of sha256:{checked.hex}",
            hint="name another node with --from, or start the node: it fetches what its channels name",
        )

    async def repair(self, manifest: Manifest, checked: Checked, on_progress: Progress | None = None) -> FetchStats:
        """Fetch what is bad and give the file its name again, verified as a whole.

        Nothing is touched before the source has said that it holds the bad chunks; what is fetched before a failure is
        kept. Raises SourceLacks, LineLost, SourceLied, StagingBusy, DiskFull, DiskFailed.
        """
        if lacking := await self._lacking([chunk.digest for chunk in checked.bad]):
            raise SourceLacks(
                f"{self._name} lacks {len(lacking)} of the {len(checked.bad)} bad chunks of {manifest.revision}",
                hint="name another node with --from; the file is as it was",
            )
        files = await in_thread(ModelFiles, self._folder)
        if files.manifest(checked.hex) is not None:
            await in_thread(files.reopen, checked.hex)
        staging = await in_thread(files.stage, manifest)
        try:
            stats = await fetch(staging, [self._source], on_progress=on_progress)
            await in_thread(staging.commit)
        finally:
            await in_thread(staging.close)
        return stats

    def _as_on_disk(self, hex_: str) -> Digest | None:
        """What the manifest would be if only bits of it were flipped."""
        try:
            return Digest(bytes.fromhex(hex_), RevisionPaths(self._folder, hex_).manifest.stat().st_size)
        except FileNotFoundError:
            return None

    async def _lacking(self, digests: list[Digest]) -> list[Digest]:
        wanted = list(dict.fromkeys(digests))
        lacking: list[Digest] = []
        for start in range(0, len(wanted), _DIGESTS_A_QUESTION):
            batch = [digest.to_proto() for digest in wanted[start : start + _DIGESTS_A_QUESTION]]
            try:
                answer = await self._stub.FindMissing(
                    content_pb2.FindMissingRequest(digests=batch), timeout=_CALL_SECONDS
                )
            except grpc.RpcError as error:
                raise from_rpc_error(error, self._name) from None
            lacking += [Digest.from_proto(digest) for digest in answer.missing]
        return lacking


def known_manifests(book: Path) -> dict[str, Digest]:
    """The manifests that a node's `channels.json` names, by hex; none when it cannot be read."""
    try:
        records = json.loads(book.read_bytes())["channels"]
        said = [ParseDict(each, registry_pb2.Channel()) for record in records for each in record.values()]
        states = [ChannelState.from_proto(channel) for channel in said]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ParseError, DeltaicError):
        return {}
    return {state.manifest.hex: state.manifest for state in states}
