"""`deltaic channel`, `deltaic channels`, `deltaic revisions`: what exists and what its names mean."""

import re
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict

from cli.connection import CALL_SECONDS, DEFAULT_CENTER, CenterOption, all_pages, connected, run
from cli.screen import JsonOption, print_json
from cli.tables import channel_words, print_line, print_rows
from cli.texts import checked
from deltaic.errors import BadName, InvalidArgument, NotFound
from deltaic.names import ChannelName, ModelName, RevisionName, TagName
from deltaic.v1 import registry_pb2
from deltaic.v1.registry_pb2_grpc import RegistryServiceStub

_PANEL = "Models"
_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")


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
    found = run(_channels_of(center, str(ModelName.parse(model)) if model else ""))
    if as_json:
        print_json([MessageToDict(channel) for channel in found])
        return
    rows = (
        (
            channel_words(channel.name),
            RevisionName.parse(channel.revision.name).revision,
            f"{channel.revision.file_bytes:,}",
            channel.update_time.ToDatetime().isoformat(" ", "seconds"),
            channel.etag,
        )
        for channel in found
    )
    print_rows(("channel", "revision", "bytes", "moved", "etag"), rows, below=[("revision",)])


async def _channels_of(center: str, model: str) -> list[registry_pb2.Channel]:
    """Raises RemoteError with NOT_FOUND for a model that does not exist: it has no channels either."""
    found = await list_channels(center, model)
    if model and not found:
        await list_revisions(center, model)
    return found


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
    rows = (
        (
            RevisionName.parse(revision.name).revision,
            f"{revision.file_bytes:,}",
            revision.create_time.ToDatetime().isoformat(" ", "seconds"),
            revision.description,
        )
        for revision in found
    )
    columns = ("revision", "bytes", "published", "description")
    print_rows(columns, rows, below=[("bytes", "published", "description")])


def move(
    channel: Annotated[str, typer.Argument(help="MODEL/CHANNEL, for example smollm2/stable.")],
    revision: Annotated[
        str,
        typer.Argument(help="sha256:HEX of a revision of that model, enough of it to be unique, its name, or a tag."),
    ],
    etag: Annotated[
        str, typer.Option(help="Move only if the channel still has this etag (see deltaic channels).")
    ] = "",
    center: CenterOption = DEFAULT_CENTER,
    as_json: JsonOption = False,
) -> None:
    """Move a channel to a revision: to roll out, or to roll back."""
    target = ChannelName.parse(channel)
    moved = run(_resolve_and_move(center, target, revision, checked(etag, "the etag")))
    if as_json:
        print_json(MessageToDict(moved))
    else:
        print_line(f"{moved.name} now names {moved.revision.name} (etag {moved.etag})")


async def _resolve_and_move(center: str, channel: ChannelName, revision: str, etag: str) -> registry_pb2.Channel:
    return await move_channel(center, channel, await resolve(center, channel.of_model, revision), etag)


async def resolve(center: str, model: ModelName, text: str) -> RevisionName:
    """The revision that `text` means: a full name, a digest, the start of the digest of one revision of `model`, a tag.

    Raises BadName, NotFound and InvalidArgument (no revision, or several, start so; no such tag), RemoteError.
    """
    if tag := _tag(model, text):
        return await _tagged(center, tag)
    start = _PREFIX.fullmatch(text.lower())
    if "/" in text or not start or len(start[1]) == 64:
        return RevisionName.parse(text if "/" in text else f"{model}/revisions/{_with_scheme(text)}")
    names = [RevisionName.parse(revision.name) for revision in await list_revisions(center, str(model))]
    meant = [name for name in names if name.hex.startswith(start[1])]
    if not meant:
        raise NotFound(
            f"no revision of {model} starts with sha256:{start[1]}", hint=f"see deltaic revisions {model.model}"
        )
    if len(meant) > 1:
        some = ", ".join(name.revision[:27] for name in meant[:3])
        raise InvalidArgument(
            f"{len(meant)} revisions of {model} start with sha256:{start[1]}: {some}", hint="write more digits"
        )
    return meant[0]


def _tag(model: ModelName, text: str) -> TagName | None:
    """The tag that `text` is the word or the full name of, if it can be one: a digest or its start never is."""
    try:
        return TagName.parse(text if "/" in text else f"{model}/tags/{text}")
    except BadName:
        return None


async def _tagged(center: str, tag: TagName) -> RevisionName:
    for each in await list_tags(center, str(tag.of_model)):
        if each.name == str(tag):
            return RevisionName.parse(each.revision.name)
    raise NotFound(
        f"no tag {tag}", hint=f"name a revision of deltaic revisions {tag.model}, or a tag of deltaic tags {tag.model}"
    )


def _with_scheme(text: str) -> str:
    return f"sha256:{text.lower()}" if _PREFIX.fullmatch(text.lower()) and ":" not in text else text


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


async def list_tags(center: str, model: str) -> list[registry_pb2.Tag]:
    """All pages of the tags of a model, or of every model."""
    request = registry_pb2.ListTagsRequest(model=model)
    async with connected(center, "center") as connection:
        return await all_pages(RegistryServiceStub(connection).ListTags, request, lambda page: page.tags)
