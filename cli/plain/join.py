"""`deltaic join`: the file that a folder of pieces is, whole and verified."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from cli.plain.bars import byte_bar
from cli.plain.files import at_work, output_file
from cli.screen import JsonOption, print_json
from cli.tables import print_line
from cli.texts import checked
from deltaic.errors import InvalidArgument
from deltaic.weights.pieces.index import read_index
from deltaic.weights.pieces.join import join


@dataclass(frozen=True, slots=True)
class Made:
    """What a join made; sizes in bytes. `kept_bytes` were in place already, and right."""

    file: str
    digest: str
    file_bytes: int
    written_bytes: int
    kept_bytes: int


def register(app: typer.Typer) -> None:
    app.command("join", rich_help_panel="Files")(join_command)


def join_command(
    folder: Annotated[Path, typer.Argument(help="What deltaic split has made.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file; by default its own name, in the working folder.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put the pieces of a folder together.

    The file appears under its name when the digest of the whole is right.
    Missing and damaged pieces are named;
    run again with good ones, it goes on where it was.

    Example: [bold]deltaic join stick/model -o model.gguf[/bold]
    """
    checked(str(folder), "the name of the folder")
    if not folder.is_dir():
        raise InvalidArgument(f"no folder at {folder}", hint="name a folder that deltaic split has made")
    target = output_file(output or Path(read_index(folder).file_name))
    with at_work(target.parent, "run it again to go on"), byte_bar("join") as advance:
        made = join(folder, target, on_progress=advance)
    whole = made.index.digest
    shown = Made(str(target), str(whole), whole.size, made.written_bytes, made.kept_bytes)
    if as_json:
        print_json(asdict(shown))
        return
    print_line(shown.file, "bold")
    print_line(f"  {shown.file_bytes:,} bytes, of which {shown.kept_bytes:,} were in place already")
    print_line(f"  verified: {shown.digest}")
