"""`deltaic split`: a file in pieces, for whatever carries pieces better than files."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

from cli.plain.bars import byte_bar
from cli.plain.files import at_work, given_file
from cli.screen import JsonOption, print_json
from cli.tables import print_line
from cli.texts import checked
from deltaic.errors import InvalidArgument
from deltaic.weights.errors import BadModelFile
from deltaic.weights.pieces.index import SUMS_NAME
from deltaic.weights.pieces.plan import By, Cut, cuts_of
from deltaic.weights.pieces.split import split


@dataclass(frozen=True, slots=True)
class Made:
    """What a split made; sizes in bytes. `kept_bytes` were in the folder already, and right."""

    folder: str
    file: str
    digest: str
    file_bytes: int
    pieces: int
    written_bytes: int
    kept_bytes: int


def register(app: typer.Typer) -> None:
    app.command("split", rich_help_panel="Files")(split_command)


def split_command(
    file: Annotated[Path, typer.Argument(help="The file; by tensor and by layer it must be GGUF.")],
    by: Annotated[By, typer.Option(help="Where to cut.")],
    size: Annotated[str, typer.Option(help="Bytes of a piece with --by size, like 500MB or 1GiB.")] = "1GiB",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder of its own; by default FILE.pieces beside the file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Cut FILE into pieces in a folder, with sums that [bold]sha256sum -c[/bold] accepts.

    Run again after an interruption, it goes on:
    pieces that are there and right are not written again.
    [bold]deltaic join[/bold] puts them together.

    Example: [bold]deltaic split model.gguf --by layer -o stick/model[/bold]
    """
    given_file(file, "the file to split")
    folder = output or file.with_name(f"{file.name}.pieces")
    checked(str(folder), "the name of the folder")
    if folder.exists() and not folder.is_dir():
        raise InvalidArgument(f"{folder} is a file", hint="choose a folder with -o")
    cuts = _cuts(file, by, _bytes(size))
    with at_work(folder, "run it again to go on"), byte_bar("split") as advance:
        made = split(file, folder, by, cuts, on_progress=advance)
    whole = made.index.digest
    shown = Made(
        str(folder), file.name, str(whole), whole.size, len(made.index.pieces), made.written_bytes, made.kept_bytes
    )
    if as_json:
        print_json(asdict(shown))
        return
    print_line(shown.folder, "bold")
    print_line(f"  {shown.pieces:,} pieces of {shown.file_bytes:,} bytes; {shown.kept_bytes:,} were there already")
    print_line(f"  check: cd {shown.folder} && sha256sum -c {SUMS_NAME}")


def _cuts(file: Path, by: By, size: int) -> list[Cut]:
    try:
        return cuts_of(file, by, size)
    except BadModelFile as error:
        raise InvalidArgument(
            f"{file.name} cannot be cut by {by}: {error.message}", hint="use --by size for a file that is not GGUF"
        ) from None


def _bytes(text: str) -> int:
    try:
        return TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        raise InvalidArgument(f"not a size: {text!r}", hint="write bytes, like 500MB or 1GiB") from None
