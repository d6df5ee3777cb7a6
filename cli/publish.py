"""`deltaic publish`: one file becomes a revision, and a channel moves to it."""

import asyncio
import json
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from cli.connection import (
    CALL_SECONDS,
    DEFAULT_CENTER,
    CenterOption,
    JsonOption,
    connected,
    console,
    progress_console,
    run,
)
from cli.fleet import is_serving
from deltaic.errors import InvalidArgument
from deltaic.names import DEFAULT_CHANNEL, ChannelName, ModelName
from deltaic.transfer.upload import upload
from deltaic.v1 import registry_pb2
from deltaic.v1.registry_pb2_grpc import RegistryServiceStub
from deltaic.weights.manifest import Manifest

_VETTING_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Published:
    """What publishing did. `held_bytes` the center had already; `sent_bytes` crossed the line, after compression."""

    revision: str
    channel: str
    file_bytes: int
    held_bytes: int
    sent_bytes: int


def register(app: typer.Typer) -> None:
    app.command("publish", rich_help_panel="Models")(publish_command)


def publish_command(
    file: Annotated[Path, typer.Argument(help="A GGUF file.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Name of the model, for example smollm2.")],
    channel: Annotated[str, typer.Option(help="Channel to move to the new revision; '' moves none.")] = DEFAULT_CHANNEL,
    description: Annotated[str, typer.Option("--description", "-d", help="What is new, for people.")] = "",
    center: CenterOption = DEFAULT_CENTER,
    as_json: JsonOption = False,
) -> None:
    """Publish FILE as a new revision of a model and move a channel to it.

    Only chunks that the center does not have are sent; a publish that was cut goes on where it stopped when it is run
    again. The center vets the file and loads it once before the channel moves.
    """
    published = run(publish(file, model=model, channel=channel, description=description, center=center))
    if as_json:
        print(json.dumps(asdict(published)))
        return
    share = 100 * published.sent_bytes / max(1, published.file_bytes)
    console.print(f"[bold]{published.revision}[/]")
    console.print(
        f"  sent {published.sent_bytes:,} of {published.file_bytes:,} bytes ({share:.2f} %); "
        f"the center had {published.held_bytes:,} already"
    )
    if published.channel:
        console.print(f"  {published.channel} now names it")


async def publish(
    file: Path, *, model: str, channel: str, center: str, description: str = "", progress: Progress | None = None
) -> Published:
    """Hash, send what is missing, have it vetted, move the channel. Raises WeightsError, RemoteError."""
    name = ModelName.parse(model)
    target = ChannelName.parse(f"{name.model}/{channel}") if channel else None
    await is_serving(center, what="center")  # before minutes of hashing, and without patience
    with progress or _bars() as bars:
        total = await asyncio.to_thread(_size, file)
        hashing = bars.add_task("hash", total=total)
        manifest = await asyncio.to_thread(
            Manifest.build, file, on_progress=lambda done: bars.update(hashing, completed=done)
        )
        async with connected(center, "center") as connection:
            sending = bars.add_task("send", total=total)
            stats = await upload(
                file,
                manifest,
                connection,
                target=f"center {center}",
                on_progress=lambda done, of: bars.update(sending, completed=done, total=of),
            )
            vetting = bars.add_task("vet and load once", total=None)
            revision = await _publish_revision(connection, name, manifest, description)
            if target:
                await RegistryServiceStub(connection).SetChannel(
                    registry_pb2.SetChannelRequest(name=str(target), revision=revision), timeout=CALL_SECONDS
                )
            bars.update(vetting, total=1, completed=1)
    return Published(revision, str(target or ""), manifest.size, stats.held_bytes, stats.wire_bytes)


def _size(file: Path) -> int:
    if not file.is_file():
        raise InvalidArgument(f"no file at {file}", hint="name a GGUF file")
    return file.stat().st_size


async def _publish_revision(
    connection: grpc.aio.Channel, model: ModelName, manifest: Manifest, description: str
) -> str:
    answer = await RegistryServiceStub(connection).PublishRevision(
        registry_pb2.PublishRevisionRequest(
            request_id=str(uuid.uuid4()), model=str(model), manifest=manifest.digest.to_proto(), description=description
        ),
        timeout=_VETTING_SECONDS,
    )
    return str(answer.revision.name)


def _bars() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:18}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=progress_console,
        transient=not progress_console.is_terminal,
    )
