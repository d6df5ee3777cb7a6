"""`deltaic diff`: from two model files to one file that says how the first becomes the second."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.plain.apart import run_apart
from cli.plain.bars import byte_bar
from cli.plain.files import at_work, given_file, output_file, percent
from cli.screen import JsonOption, print_json
from cli.tables import print_line
from deltaic.errors import InvalidArgument

if TYPE_CHECKING:
    from deltaic.weights.delta.index import DeltaIndex

_MAGIC = b"DLTI"
_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Made:
    """What a diff made; sizes in bytes, digests as sha256:HEX of whole files."""

    delta: str
    source: str
    target: str
    delta_bytes: int
    target_bytes: int
    percent: float
    seconds: float


def register(app: typer.Typer) -> None:
    app.command("diff", rich_help_panel="Files")(diff_command)


def diff_command(
    old: Annotated[Path, typer.Argument(metavar="A.gguf", help="The file that its receiver has.")],
    new: Annotated[Path, typer.Argument(metavar="B.gguf", help="The file that its receiver wants.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The delta; by default beside B, named after it: B.delta.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=0, max=1024, help="Processes; 0: one for each core.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Write what makes B out of A into one small file, bit for bit.

    The two are versions of one architecture; their quantisations may differ.
    Whoever holds A makes B with [bold]deltaic patch[/bold];
    [bold]deltaic inspect[/bold] shows what changed.

    Example: [bold]deltaic diff v1.gguf v2.gguf -o v1-v2.delta[/bold]
    """
    given_file(old, "the old GGUF file")
    given_file(new, "the new GGUF file")
    delta = output_file(output or new.with_suffix(".delta"), old, new)
    _check_replaceable(delta)
    with at_work(delta.parent):
        made = diff(old, new, delta, jobs)
    if as_json:
        print_json(asdict(made))
        return
    print_line(made.delta, "bold")
    print_line(
        f"  {made.delta_bytes:,} bytes, {percent(made.delta_bytes, made.target_bytes)} of {new.name} "
        f"({made.target_bytes:,} bytes), made in {made.seconds:.1f} s"
    )


def diff(old: Path, new: Path, delta: Path, jobs: int = 0) -> Made:
    """Encode with a bar. Raises what `write_delta` raises, KeyboardInterrupt; then nothing is left."""
    from deltaic.weights.delta.diff import write_delta  # numpy and gguf: only where they are needed

    started = time.monotonic()
    with byte_bar("compare") as advance:

        def work(go_on: Callable[[], None]) -> "DeltaIndex":
            def on_progress(done: int, total: int) -> None:
                go_on()
                advance(done, total)

            return write_delta(old, new, delta, jobs=jobs, on_progress=on_progress)

        index = run_apart(work, give_up=lambda: _give_up(delta))
    return Made(
        str(delta),
        str(index.source),
        str(index.target),
        index.size,
        index.target.size,
        round(100 * index.size / index.target.size, 4),
        round(time.monotonic() - started, 3),
    )


def _check_replaceable(delta: Path) -> None:
    """Raises InvalidArgument for a file that is no delta: its name was hardly meant."""
    if delta.exists() and given_file(delta, "another output").stat().st_size:
        with delta.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise InvalidArgument(f"{delta} is there and is no delta", hint="choose another name with -o")


def _give_up(delta: Path) -> None:
    """End at once: hashing a large file, which nothing interrupts, would go on for minutes."""
    for process in multiprocessing.active_children():
        process.terminate()
    for ending in ("packs", "part"):
        delta.with_name(f".{delta.name}.{ending}").unlink(missing_ok=True)
    print("interrupted; nothing was left behind", file=sys.stderr, flush=True)
    os._exit(_INTERRUPTED)
