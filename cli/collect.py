"""`deltaic center gc`: have a running center free what nothing keeps, or say what it would free."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict
from rich.filesize import decimal

from cli.connection import DEFAULT_CENTER, CenterOption, connected, run
from cli.screen import JsonOption, print_json, progress_console
from cli.tables import channel_words, is_terminal, print_line, print_rows
from deltaic.errors import Unavailable
from deltaic.names import RevisionName
from deltaic.v1 import registry_pb2
from deltaic.v1.registry_pb2_grpc import RegistryServiceStub

_PROG = "deltaic center gc"
_SECONDS = 6 * 3600.0
_SHOWN = 3
_Keeper = registry_pb2.Keeper

_app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass(slots=True)
class Collected:
    """What a collection said."""

    fates: list[registry_pb2.RevisionFate] = field(default_factory=list)
    summary: registry_pb2.CollectSummary = field(default_factory=registry_pb2.CollectSummary)


def main(argv: Sequence[str]) -> int:
    """Parse the arguments behind `gc` and do it; the exit status."""
    command = typer.main.get_command(_app)
    return int(command.main(list(argv), prog_name=_PROG, standalone_mode=False) or 0)


@_app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be freed.")] = False,
    center: CenterOption = DEFAULT_CENTER,
    as_json: JsonOption = False,
) -> None:
    """Free what a running center no longer needs, or say what would be freed.

    A revision stays while a channel names it or named it lately, a tag names it, a node serves it or is on its way to
    it, or it was published within the last hours. Chunks stay while a revision that stays needs them, and while they
    are so new that a publish may be under way. The settings of the center say how long and how many.
    """
    done = run(collect(center, dry_run=dry_run))
    if as_json:
        print_json({"revisions": [MessageToDict(fate) for fate in done.fates], "summary": MessageToDict(done.summary)})
        return
    print_rows(("model", "revision", "bytes", "kept by"), fate_rows(done.fates, dry_run=dry_run), below=[("kept by",)])
    for line in summary_lines(done.summary, dry_run=dry_run):
        print_line(line)


def fate_rows(fates: Iterable[registry_pb2.RevisionFate], *, dry_run: bool) -> Iterator[tuple[str, ...]]:
    """A row for each revision: what keeps it, or that nothing does."""
    nothing = "nothing: would be freed" if dry_run else "nothing: freed"
    for fate in fates:
        name = RevisionName.parse(fate.revision.name)
        yield name.model, name.revision, f"{fate.revision.file_bytes:,}", _keepers(fate) or nothing


def _keepers(fate: registry_pb2.RevisionFate) -> str:
    shown = [_keeper(each) for each in fate.keepers[:_SHOWN]]
    more = fate.keeper_count - len(shown)
    return ", ".join([*shown, f"{more} more"] if more > 0 else shown)


def _keeper(keeper: registry_pb2.Keeper) -> str:
    words = {
        _Keeper.KIND_CHANNEL: f"channel {channel_words(keeper.name)}",
        _Keeper.KIND_PREVIOUS: f"before in channel {channel_words(keeper.name)}",
        _Keeper.KIND_TAG: f"tag {keeper.name.rpartition('/')[2] if is_terminal() else keeper.name}",
        _Keeper.KIND_NODE: f"node {keeper.name}",
        _Keeper.KIND_PUBLISH: "published lately",
    }
    return words.get(keeper.kind, "a reason that this version of deltaic does not know")


def summary_lines(summary: registry_pb2.CollectSummary, *, dry_run: bool) -> Iterator[str]:
    """What was freed, what stays, and what stays only for now."""
    would = "would free" if dry_run else "freed"
    yield f"{would} {_revisions(summary.freed_revisions)}, {_blobs(summary.freed_blobs, summary.freed_bytes)}"
    yield f"kept {_revisions(summary.kept_revisions)}, {_blobs(summary.kept_blobs, summary.kept_bytes)}"
    if summary.recent_blobs:
        blobs = _blobs(summary.recent_blobs, summary.recent_bytes)
        yield f"left {blobs}, which no revision needs but a publish under way may"


def _revisions(count: int) -> str:
    return f"{count:,} revision{'' if count == 1 else 's'}"


def _blobs(count: int, size: int) -> str:
    told = decimal(size) if is_terminal() else f"{size} bytes"
    return f"{count:,} blob{'' if count == 1 else 's'} of {told}"


async def collect(center: str, *, dry_run: bool) -> Collected:
    """Ask the center, show how far it is, and wait for the end. Raises RemoteError, Unavailable."""
    done = Collected()
    ended = False
    async with connected(center, "center") as connection:
        request = registry_pb2.CollectGarbageRequest(dry_run=dry_run)
        call = RegistryServiceStub(connection).CollectGarbage(request, timeout=_SECONDS)
        with progress_console.status("looking at revisions") as status:
            async for news in call:
                if news.HasField("revision"):
                    done.fates.append(news.revision)
                elif news.HasField("progress"):
                    status.update(f"looking at blobs: {news.progress.blobs:,}, free {news.progress.freed_blobs:,}")
                elif news.HasField("summary"):
                    done.summary, ended = news.summary, True
    if not ended:
        raise Unavailable("the center did not say how the collection ended", hint="start it again: it goes on")
    return done
