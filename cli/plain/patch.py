"""`deltaic patch`: from a model file and a delta to the new model file, verified before it has its name."""

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from cli.plain.bars import byte_bar
from cli.plain.files import at_work, given_file, output_file
from cli.screen import JsonOption, print_json
from cli.tables import print_line
from deltaic.weights.errors import BadDelta, WrongBase


@dataclass(frozen=True, slots=True)
class Patched:
    """What a patch made; sizes in bytes, digests as sha256:HEX of whole files."""

    file: str
    digest: str
    file_bytes: int
    delta_bytes: int
    seconds: float


def register(app: typer.Typer) -> None:
    app.command("patch", rich_help_panel="Files")(patch_command)


def patch_command(
    old: Annotated[Path, typer.Argument(metavar="A.gguf", help="The file that the delta is from.")],
    delta: Annotated[Path, typer.Argument(metavar="DELTA", help="What deltaic diff has written.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new file; one that is there is replaced.")],
    as_json: JsonOption = False,
) -> None:
    """Make B out of A and a delta.

    The new file is verified by its digest before it gets its name.
    A wrong base, a damaged delta or Ctrl-C leaves nothing behind,
    and what had the name before is still there.

    Example: [bold]deltaic patch v1.gguf v1-v2.delta -o v2.gguf[/bold]
    """
    given_file(old, "the old GGUF file")
    given_file(delta, "a file that deltaic diff has written")
    target = output_file(output, old, delta)
    with at_work(target.parent):
        made = patch(old, delta, target)
    if as_json:
        print_json(asdict(made))
        return
    print_line(made.file, "bold")
    print_line(f"  {made.file_bytes:,} bytes from {old.name} and {made.delta_bytes:,} bytes, in {made.seconds:.1f} s")
    print_line(f"  verified: {made.digest}")


def patch(old: Path, delta: Path, target: Path) -> Patched:
    """Apply with a bar. Raises BadDelta, UnknownDelta, WrongBase, DigestMismatch, OSError; then nothing is left."""
    from deltaic.weights.delta.patch import apply_delta, read_index  # numpy: only where it is needed

    started = time.monotonic()
    with byte_bar("patch") as advance:
        try:
            index = apply_delta(old, delta, target, on_progress=advance)
        except BadDelta:
            # A delta on the wrong file can look damaged long before the end: say what is really wrong.
            promised = read_index(delta).source
            with old.open("rb") as file:
                if hashlib.file_digest(file, "sha256").digest() == promised.sha256:
                    raise
            raise WrongBase(
                f"{old.name} is not the file that this delta is from", hint=f"apply it to the file with {promised}"
            ) from None
    seconds = round(time.monotonic() - started, 3)
    return Patched(str(target), str(index.target), index.target.size, index.size, seconds)
