"""`deltaic tag`, `deltaic tags`, `deltaic untag`: fixed names of revisions."""

from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict

from cli.connection import CALL_SECONDS, DEFAULT_CENTER, CenterOption, connected, run
from cli.registry import list_revisions, list_tags, resolve
from cli.screen import JsonOption, print_json
from cli.tables import is_terminal, print_line, print_rows
from deltaic.names import ModelName, RevisionName, TagName
from deltaic.v1 import registry_pb2
from deltaic.v1.registry_pb2_grpc import RegistryServiceStub

_PANEL = "Models"

TagArgument = Annotated[str, typer.Argument(help="MODEL/TAG, for example smollm2/v1.2.")]


def register(app: typer.Typer) -> None:
    app.command("tag", rich_help_panel=_PANEL)(tag)
    app.command("tags", rich_help_panel=_PANEL)(tags)
    app.command("untag", rich_help_panel=_PANEL)(untag)


def tag(
    name: TagArgument,
    revision: Annotated[
        str, typer.Argument(help="sha256:HEX of a revision, enough of it to be unique, its name, or another tag.")
    ],
    center: CenterOption = DEFAULT_CENTER,
    as_json: JsonOption = False,
) -> None:
    """Give a revision a fixed name, which also keeps it from collection. A tag never moves."""
    made = run(_create(center, TagName.parse(name), revision))
    if as_json:
        print_json(MessageToDict(made))
    else:
        print_line(f"{made.name} names {made.revision.name}")


async def _create(center: str, name: TagName, revision: str) -> registry_pb2.Tag:
    target = await resolve(center, name.of_model, revision)
    async with connected(center, "center") as connection:
        request = registry_pb2.CreateTagRequest(name=str(name), revision=str(target))
        return (await RegistryServiceStub(connection).CreateTag(request, timeout=CALL_SECONDS)).tag


def tags(
    model: Annotated[str, typer.Argument(help="One model; all when left out.")] = "",
    center: CenterOption = DEFAULT_CENTER,
    as_json: JsonOption = False,
) -> None:
    """List tags and the revisions that they name."""
    found = run(_tags_of(center, str(ModelName.parse(model)) if model else ""))
    if as_json:
        print_json([MessageToDict(each) for each in found])
        return
    rows = (
        (
            _tag_words(each.name),
            RevisionName.parse(each.revision.name).revision,
            f"{each.revision.file_bytes:,}",
            each.create_time.ToDatetime().isoformat(" ", "seconds"),
        )
        for each in found
    )
    print_rows(("tag", "revision", "bytes", "made"), rows, below=[("revision",)])


async def _tags_of(center: str, model: str) -> list[registry_pb2.Tag]:
    """Raises RemoteError with NOT_FOUND for a model that does not exist: it has no tags either."""
    found = await list_tags(center, model)
    if model and not found:
        await list_revisions(center, model)
    return found


def _tag_words(name: str) -> str:
    tag_name = TagName.parse(name)
    return f"{tag_name.model}/{tag_name.tag}" if is_terminal() else name


def untag(name: TagArgument, center: CenterOption = DEFAULT_CENTER) -> None:
    """Remove a tag. Its revision stays until nothing else keeps it and the center collects."""
    tag_name = TagName.parse(name)
    run(_delete(center, tag_name))
    print_line(f"{tag_name} is no more")


async def _delete(center: str, name: TagName) -> None:
    async with connected(center, "center") as connection:
        request = registry_pb2.DeleteTagRequest(name=str(name))
        await RegistryServiceStub(connection).DeleteTag(request, timeout=CALL_SECONDS)
