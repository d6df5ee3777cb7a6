"""`deltaic channel`, `deltaic channels`, `deltaic revisions`: what exists and what its names mean."""

from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict
from rich.table import Table

from cli.connection import (
    CALL_SECONDS,
    DEFAULT_CENTER,
    CenterOption,
    JsonOption,
    all_pages,
    connected,
    console,
    print_json,
    run,
)
from deltaic.names import ChannelName, ModelName, RevisionName
from deltaic.v1 import registry_pb2
from deltaic.v1.registry_pb2_grpc import RegistryServiceStub

_PANEL = "Models"


def register(app: typer.Typer) -> None:
    app.command("channels", rich_help_panel=_PANEL)(channels)
    app.command("revisions", rich_help_panel=_PANEL)(revisions)
    app.command("move", rich_help_panel=_PANEL)(move)


def channels(
    model: Annotated[str, typer.Argument(help="One model; all when left out.")] = "",
    center: CenterOption = DEFAULT_CENTER,
    as_json: JsonOption = False,
) -> None:
    """List channels and the revisions that they name."""
    found = run(list_channels(center, str(ModelName.parse(model)) if model else ""))
    if as_json:
        print_json([MessageToDict(channel) for channel in found])
        return
    table = Table("channel", "revision", "bytes", "moved", "etag", box=None)
    for channel in found:
        revision = RevisionName.parse(channel.revision.name)
        moved = channel.update_time.ToDatetime().isoformat(" ", "seconds")
        table.add_row(channel.name, revision.revision, f"{channel.revision.file_bytes:,}", moved, channel.etag)
    console.print(table)


def revisions(
    model: Annotated[str, typer.Argument(help="The model.")],
    center: CenterOption = DEFAULT_CENTER,
    as_json: JsonOption = False,
) -> None:
    """List the revisions of a model, newest first."""
    found = run(list_revisions(center, str(ModelName.parse(model))))
    if as_json:
        print_json([MessageToDict(revision) for revision in found])
        return
    table = Table("revision", "bytes", "published", "description", box=None)
    for revision in found:
        published = revision.create_time.ToDatetime().isoformat(" ", "seconds")
        table.add_row(
            RevisionName.parse(revision.name).revision, f"{revision.file_bytes:,}", published, revision.description
        )
    console.print(table)


def move(
    channel: Annotated[str, typer.Argument(help="MODEL/CHANNEL, for example smollm2/stable.")],
    revision: Annotated[str, typer.Argument(help="sha256:HEX of a revision of that model, or its full name.")],
    etag: Annotated[
        str, typer.Option(help="Move only if the channel still has this etag (see deltaic channels).")
    ] = "",
    center: CenterOption = DEFAULT_CENTER,
    as_json: JsonOption = False,
) -> None:
    """Move a channel to a revision: to roll out, or to roll back."""
    target = ChannelName.parse(channel)
    full = revision if "/" in revision else f"{target.of_model}/revisions/{revision}"
    moved = run(move_channel(center, target, RevisionName.parse(full), etag))
    if as_json:
        print_json(MessageToDict(moved))
    else:
        console.print(f"{moved.name} now names {moved.revision.name} (etag {moved.etag})")


async def move_channel(
    center: str, channel: ChannelName, revision: RevisionName, etag: str = ""
) -> registry_pb2.Channel:
    """Raises RemoteError: NOT_FOUND, or ABORTED when the etag is stale."""
    async with connected(center, "center") as connection:
        request = registry_pb2.SetChannelRequest(name=str(channel), revision=str(revision), etag=etag)
        answer = await RegistryServiceStub(connection).SetChannel(request, timeout=CALL_SECONDS)
        return answer.channel


async def list_channels(center: str, model: str) -> list[registry_pb2.Channel]:
    """All pages of the channels of a model, or of every model."""
    request = registry_pb2.ListChannelsRequest(model=model)
    async with connected(center, "center") as connection:
        return await all_pages(RegistryServiceStub(connection).ListChannels, request, lambda page: page.channels)


async def list_revisions(center: str, model: str) -> list[registry_pb2.Revision]:
    """All pages of the revisions of a model."""
    request = registry_pb2.ListRevisionsRequest(model=model)
    async with connected(center, "center") as connection:
        return await all_pages(RegistryServiceStub(connection).ListRevisions, request, lambda page: page.revisions)
