"""`deltaic publish`: one file becomes a revision, and a channel moves to it."""

import asyncio
import json
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.console import RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from cli.connection import CALL_SECONDS, DEFAULT_CENTER, CenterOption, connected, run
from cli.fleet import is_serving
from cli.screen import JsonOption, progress_console
from cli.tables import print_line
from cli.texts import checked
from deltaic.errors import InvalidArgument
from deltaic.names import DEFAULT_CHANNEL, ChannelName, ModelName
from deltaic.transfer.upload import UploadStats, upload
from deltaic.v1 import registry_pb2
from deltaic.v1.registry_pb2_grpc import RegistryServiceStub
from deltaic.weights.manifest import Manifest

_VETTING_SECONDS = 600.0
_MOST_DESCRIPTION = 1_000  # characters, as the contract says


@dataclass(frozen=True, slots=True)
class Published:
    """What publishing did.

    Of the file's bytes the center had `held_bytes` already; `sent_bytes` crossed the line for the others and for the
    manifest, after compression.
    """

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
    print_line(published.revision, "bold")
    print_line(
        f"  sent {published.sent_bytes:,} of {published.file_bytes:,} bytes ({share:.2f} %); "
        f"the center had {published.held_bytes:,} already"
    )
    if published.channel:
        print_line(f"  {published.channel} now names it")


async def publish(
    file: Path, *, model: str, channel: str, center: str, description: str = "", progress: Progress | None = None
) -> Published:
    """Hash, send what is missing, have it vetted, move the channel.

    Raises BadName, InvalidArgument, WeightsError, RemoteError.
    """
    name = ModelName.parse(model)
    target = ChannelName.parse(f"{name.model}/{channel}") if channel else None
    _check_description(description)
    total = await asyncio.to_thread(_size, file)
    await is_serving(center, what="center")  # before minutes of hashing, and without patience
    with progress or _bars() as bars:
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
            vetting = bars.add_task("vet and load once", total=None, in_bytes=False)
            revision = await _publish_revision(connection, name, manifest, description)
            if target:
                await RegistryServiceStub(connection).SetChannel(
                    registry_pb2.SetChannelRequest(name=str(target), revision=revision), timeout=CALL_SECONDS
                )
            bars.update(vetting, total=1, completed=1)
    return Published(revision, str(target or ""), manifest.size, _held(manifest, stats), stats.wire_bytes)


def _held(manifest: Manifest, stats: UploadStats) -> int:
    """Bytes of the file that were there. An upload counts the manifest too, and a chunk that occurs twice once."""
    return min(stats.held_bytes, manifest.size) if stats.sent_bytes else manifest.size


def _check_description(description: str) -> None:
    if len(checked(description, "the description")) > _MOST_DESCRIPTION:
        raise InvalidArgument(
            f"a description of {len(description):,} characters", hint=f"write at most {_MOST_DESCRIPTION:,}"
        )


def _size(file: Path) -> int:
    checked(str(file), "the name of the file")
    if not file.exists():
        raise InvalidArgument(f"no file at {file}", hint="name a GGUF file")
    if not file.is_file():
        raise InvalidArgument(f"{file} is not a regular file", hint="name a GGUF file")
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
        _ForBytes(DownloadColumn(), TimeElapsedColumn()),
        _ForBytes(TransferSpeedColumn()),
        _ForBytes(TimeRemainingColumn()),
        console=progress_console,
        disable=not progress_console.is_terminal,
    )


class _ForBytes(ProgressColumn):
    """One column for tasks that count bytes, another (or nothing) for the one that only takes time."""

    def __init__(self, column: ProgressColumn, otherwise: ProgressColumn | None = None) -> None:
        self._column = column
        self._otherwise = otherwise
        super().__init__()

    def render(self, task: Task) -> RenderableType:
        column = self._column if task.fields.get("in_bytes", True) else self._otherwise
        return column(task) if column else Text()
