"""`deltaic verify`: whether a node's model files are still what they were, and new bytes for what is not."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from cli.connection import connected, run
from cli.plain.bars import byte_bar
from cli.plain.files import at_work
from cli.screen import JsonOption, print_json
from cli.tables import print_line, print_rows
from cli.texts import checked as checked_text
from deltaic.errors import InvalidArgument
from deltaic.runtime.addresses import check_address
from deltaic.runtime.data_folder import DataFolderUnusable, own_data_folder
from deltaic.store.checking import Checked, check_folder, check_revision
from deltaic.transfer.follow import BOOK_NAME
from deltaic.transfer.repair import Repairer, known_manifests

MODELS_FOLDER = "models"
_NUMBERS = ("bytes", "chunks", "bad chunks", "bad bytes", "fetched")


@dataclass(frozen=True, slots=True)
class Shown:
    """One revision after the check, and after the repair if there was one; sizes in bytes."""

    revision: str
    file: str
    state: str
    bytes: int
    chunks: int
    bad_chunks: int
    bad_bytes: int
    fetched_bytes: int = 0

    @classmethod
    def of(cls, checked: Checked) -> "Shown":
        manifest = checked.manifest
        name, chunks = (manifest.file_name, len(manifest.chunks)) if manifest else ("", 0)
        size, bad = checked.size, checked.bad
        return cls(f"sha256:{checked.hex}", name, str(checked.health), size, chunks, len(bad), checked.bad_bytes)


def register(app: typer.Typer) -> None:
    app.command("verify", rich_help_panel="Operate")(verify)


def verify(
    data_dir: Annotated[Path, typer.Option("--data-dir", help="The data folder of an edge or a device.")],
    repair: Annotated[bool, typer.Option("--repair", help="Fetch bad chunks again; the node must be stopped.")] = False,
    source: Annotated[str, typer.Option("--from", help="HOST:PORT of a node that holds the revisions.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Hash every chunk of a node's model files again, and repair what is bad.

    A file is compared with its manifest, and the manifest with the revision,
    which is its digest. Nothing is signed yet: this shows that the bytes
    are those of the revision, not who published it.

    Checking works while the node runs; repairing needs it stopped.
    A node also repairs by itself: at its start it hashes what its channels
    serve and fetches bad chunks.
    Exit status 1: something is bad and was not repaired.

    Example: [bold]deltaic verify --data-dir /srv/edge --repair --from 10.0.0.1:7400[/bold]
    """
    models = _models_folder(data_dir)
    if repair != bool(source):
        raise InvalidArgument("--repair and --from HOST:PORT go together", hint="name a node that has the revisions")
    with at_work(models, "nothing was changed"), byte_bar("verify") as advance:
        found = check_folder(models, advance)
    shown = {checked.hex: Shown.of(checked) for checked in found}
    bad = [checked for checked in found if checked.is_bad]
    if bad and repair:
        shown |= {fixed.revision.removeprefix("sha256:"): fixed for fixed in _repair(data_dir, bad, source)}
    healthy = all(one.state in ("ok", "unfinished", "repaired") for one in shown.values())
    if as_json:
        print_json({"data_dir": str(data_dir), "ok": healthy, "revisions": [asdict(one) for one in shown.values()]})
    else:
        _print(list(shown.values()), data_dir, healthy)
    raise typer.Exit(0 if healthy else 1)


def _models_folder(data_dir: Path) -> Path:
    checked_text(str(data_dir), "--data-dir")
    models = data_dir / MODELS_FOLDER
    if not models.is_dir():
        raise InvalidArgument(
            f"no folder {MODELS_FOLDER} in {data_dir}", hint="name the --data-dir of an edge or a device that has run"
        )
    return models


def _repair(data_dir: Path, bad: Sequence[Checked], source: str) -> list[Shown]:
    """Raises DataFolderUnusable when a node works there, and what `Repairer` raises."""
    address = check_address(source)
    try:
        with own_data_folder(data_dir, "deltaic verify"):
            return run(_fetch_bad(data_dir, bad, address))
    except DataFolderUnusable as error:
        raise DataFolderUnusable(
            error.message,
            hint="stop it and run this again, or restart it: at its start a node repairs what its channels serve",
        ) from None


async def _fetch_bad(data_dir: Path, bad: Sequence[Checked], address: str) -> list[Shown]:
    models, known = data_dir / MODELS_FOLDER, known_manifests(data_dir / BOOK_NAME)
    repaired: list[Shown] = []
    async with connected(address, "node") as channel:
        repairer = Repairer(models, channel, f"node {address}")
        for checked in bad:
            with byte_bar("repair") as advance:
                manifest = await repairer.manifest_of(checked, known)
                stats = await repairer.repair(manifest, checked, advance)
            repaired.append(_after(checked, check_revision(models, checked.hex, manifest), stats.fetched_bytes))
    return repaired


def _after(before: Checked, after: Checked, fetched: int) -> Shown:
    shown = Shown.of(after)
    state = shown.state if after.is_bad else "repaired"
    return Shown(
        shown.revision, shown.file, state, shown.bytes, shown.chunks, len(before.bad), before.bad_bytes, fetched
    )


def _print(shown: Sequence[Shown], data_dir: Path, healthy: bool) -> None:
    columns = ("revision", "file", "bytes", "chunks", "bad chunks", "bad bytes", "fetched", "state")
    rows = (
        (
            one.revision,
            one.file,
            f"{one.bytes:,}",
            f"{one.chunks:,}",
            f"{one.bad_chunks:,}",
            f"{one.bad_bytes:,}",
            f"{one.fetched_bytes:,}",
            one.state,
        )
        for one in shown
    )
    print_rows(columns, rows, below=[("revision",), ("file",)], right=_NUMBERS)
    print_line("")
    print_line(f"{len(shown)} revisions, {sum(one.bytes for one in shown):,} bytes", "bold")
    if not healthy:
        print_line(f"repair: stop the node, then deltaic verify --data-dir {data_dir} --repair --from HOST:PORT")
